"""Jobs that run by themselves: seal, roll up, retain, watch, deliver.  Each is thin; the work is in the parts below."""
