"""What ``tidegauge demo`` shows: a simulated fleet of services, and an incident that befalls one of them."""
