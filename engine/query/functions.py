"""Functions that analysts' SQL may call, by category.  What is not listed here is refused.

The list is written out rather than computed, so that a new version of DuckDB cannot add to it.  Left out on purpose:
whatever reads files, settings, secrets, the environment or the schema (``read_*``, ``glob``, ``getenv``,
``current_setting``, ``duckdb_*``, ``pragma_*``), runs text as SQL (``query``, ``query_table``, ``json_execute_*``),
keeps or changes state (``setseed``, ``nextval``, ``getvariable``, ``write_log``), sleeps, takes raw pointers
(``arrow_scan``) or revives binary aggregate states (``finalize``, ``combine``).
Names are in lower case.
"""

from __future__ import annotations


def _names(*lines: str) -> frozenset[str]:
    return frozenset(name for line in lines for name in line.split())


OPERATORS = _names(
    "+ - * / // % ** ^ & | ~ << >> ! !__postfix @ || && <-> <=> <@ @> ^@ -> ->> ~~ !~~ ~~* !~~* ~~~",
    "like_escape not_like_escape ilike_escape not_ilike_escape = == != <> < <= > >= __between add subtract",
    "multiply divide mod fmod fdiv pow power xor",
)

AGGREGATES = _names(
    "any_value approx_count_distinct approx_quantile approx_top_k arbitrary arg_max arg_max_null",
    "arg_max_nulls_last arg_min arg_min_null arg_min_nulls_last argmax argmin array_agg avg bit_and bit_or",
    "bit_xor bool_and bool_or corr count count_if count_star countif covar_pop covar_samp entropy favg first",
    "fsum geomean geometric_mean group_concat histogram histogram_exact histogram_quantile kahan_sum",
    "kurtosis kurtosis_pop last",
    "list listagg lttb mad max max_by mean median min min_by mode product quantile quantile_cont",
    "quantile_disc regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy",
    "regr_syy reservoir_quantile sem skewness stddev stddev_pop stddev_samp string_agg sum sum_no_overflow",
    "sumkahan var_pop var_samp variance wavg weighted_avg grouping grouping_id",
)

WINDOW_FUNCTIONS = _names(
    "cume_dist dense_rank fill first_value lag last_value lead nth_value ntile percent_rank rank rank_dense",
    "row_number",
)

#: Macros of ours over samples (:mod:`engine.query.macros`).
SERIES = _names("anomaly_score delta earliest forecast increase interpolate latest locf rate")

NUMERIC = _names(
    "abs acos acosh asin asinh atan atan2 atanh bit_count cbrt ceil ceiling cos cosh cot degrees even exp",
    "factorial floor gamma gcd greatest greatest_common_divisor isfinite isinf isnan lcm least",
    "least_common_multiple lgamma ln log log10 log2 nextafter pi radians round round_even roundbankers sign",
    "signbit sin sinh sqrt tan tanh trunc equi_width_bins is_histogram_other_bin width_bucket",
)

RANDOM = _names("random uuid gen_random_uuid uuidv4 uuidv7")

CONDITIONAL = _names("coalesce constant_or_null error if ifnull nullif typeof pg_typeof switch try")

TIME = _names(
    "age century date_add date_diff date_part date_sub date_trunc datediff datepart datesub datetrunc day",
    "dayname dayofmonth dayofweek dayofyear days_in_month decade epoch epoch_ms epoch_ns epoch_us era hour",
    "isodow isoyear julian last_day make_date make_time make_timestamp make_timestamp_ms make_timestamp_ns",
    "make_timestamptz microsecond millennium millisecond minute month monthname nanosecond",
    "normalized_interval quarter second strftime strptime time_bucket timezone timezone_hour timezone_minute",
    "to_centuries to_days to_decades to_hours to_microseconds to_millennia to_milliseconds to_minutes",
    "to_months to_quarters to_seconds to_timestamp to_weeks to_years try_strptime week weekday weekofyear",
    "year yearweek",
)

NOW = _names(
    "ago current_date current_localtime current_localtimestamp current_time current_timestamp",
    "get_current_time get_current_timestamp localtime localtimestamp now today transaction_timestamp",
)

TEXT = _names(
    "array_to_string ascii bar base64 bin bit_length char_length character_length chr concat concat_ws",
    "contains damerau_levenshtein decode editdist3 encode ends_with format format_bytes",
    "formatreadabledecimalsize formatreadablesize from_base64 from_binary from_hex hamming hash hex instr",
    "jaccard jaro_similarity jaro_winkler_similarity lcase left left_grapheme len length length_grapheme",
    "levenshtein lower lpad ltrim md5 md5_number mismatches nfc_normalize octet_length ord overlay",
    "parse_formatted_bytes pg_size_pretty position prefix printf regexp_escape regexp_extract",
    "regexp_extract_all regexp_full_match regexp_matches regexp_replace regexp_split_to_array",
    "regexp_split_to_table repeat replace reverse right right_grapheme rpad rtrim sha1 sha256 split",
    "split_part starts_with str_split str_split_regex string_split string_split_regex string_to_array",
    "strip_accents strlen strpos substr substring substring_grapheme suffix to_base to_base64 to_binary",
    "to_hex translate trim ucase unbin unhex unicode upper url_decode url_encode version",
)

NESTED = _names(
    "apply array_append array_apply array_cat array_concat array_contains array_distinct array_extract",
    "array_filter array_has array_has_all array_has_any array_indexof array_intersect array_length",
    "array_pop_back array_pop_front array_position array_prepend array_push_back array_push_front",
    "array_reduce array_resize array_reverse array_reverse_sort array_select array_slice array_sort",
    "array_transform array_unique array_value array_where array_zip array_aggr array_aggregate aggregate",
    "cardinality element_at filter flatten generate_series generate_subscripts grade_up array_grade_up",
    "list_grade_up list_aggr list_aggregate list_any_value list_append list_apply list_approx_count_distinct",
    "list_avg list_bit_and list_bit_or list_bit_xor list_bool_and list_bool_or list_cat list_concat",
    "list_contains list_count list_cosine_distance list_cosine_similarity list_distance list_distinct",
    "list_dot_product list_element list_entropy list_extract list_filter list_first list_has list_has_all",
    "list_has_any list_histogram list_indexof list_inner_product list_intersect list_kurtosis",
    "list_kurtosis_pop list_last list_mad list_max list_median list_min list_mode list_pack list_position",
    "list_prepend list_product list_reduce list_resize list_reverse list_reverse_sort list_select list_sem",
    "list_skewness list_slice list_sort list_stddev_pop list_stddev_samp list_string_agg list_sum",
    "list_transform list_unique list_value list_var_pop list_var_samp list_where list_zip map map_concat",
    "map_contains map_contains_entry map_contains_value map_entries map_extract map_extract_value",
    "map_from_entries map_keys map_values range reduce row struct_concat struct_contains struct_extract",
    "struct_extract_at struct_has struct_indexof struct_insert struct_keys struct_pack struct_position",
    "struct_update struct_values unnest unpivot_list",
)

JSON = _names(
    "array_to_json from_json json json_array json_array_length json_contains json_exists json_extract",
    "json_extract_path json_extract_path_text json_extract_string json_group_array json_group_object",
    "json_group_structure json_keys json_merge_patch json_object json_pretty json_quote json_structure",
    "json_transform json_type json_valid json_value row_to_json to_json",
)

FUNCTIONS = (
    OPERATORS
    | AGGREGATES
    | WINDOW_FUNCTIONS
    | SERIES
    | NUMERIC
    | RANDOM
    | CONDITIONAL
    | TIME
    | NOW
    | TEXT
    | NESTED
    | JSON
)

TABLE_FUNCTIONS = _names("generate_series json_each json_tree range time_bucket_gapfill unnest")

#: A series written out in the statement may have this many rows; one computed from data is held by the other limits.
MAX_GENERATED_ROWS = 10_000_000
GENERATORS = _names("generate_series range")

#: Same arguments, same result, in time and memory proportional to them: may be evaluated ahead of the statement, to
#: find out which rows it can touch.
PUSHABLE = OPERATORS | _names(
    "abs ceil coalesce concat contains date_add floor trunc date_part date_sub date_trunc datepart datesub",
    "datetrunc day ends_with epoch epoch_ms epoch_ns epoch_us greatest hour ifnull instr lcase least left len",
    "length lower ltrim make_date make_timestamp make_timestamp_ms make_timestamp_ns minute month nullif",
    "position prefix regexp_extract regexp_full_match regexp_matches replace right round rtrim second",
    "split_part starts_with strlen strpos strptime substr substring suffix time_bucket to_days to_hours",
    "to_microseconds to_milliseconds to_minutes to_months to_seconds to_timestamp to_weeks to_years trim",
    "try_strptime ucase upper year list_value list_contains",
)

#: Those that may be written without parentheses, where a column's name could also stand.
CLOCK_WORDS = _names("current_date current_timestamp localtimestamp")

#: Grow with the clock, so that an early evaluation gives a lower bound.
CLOCKS = _names(
    "current_date current_localtimestamp current_timestamp get_current_timestamp localtimestamp now today",
    "transaction_timestamp",
)

#: How the functions of ours that analysts call are written, for completion and help.
SIGNATURES = {
    "anomaly_score": "anomaly_score(value, time)",
    "delta": "delta(value, time)",
    "earliest": "earliest(value, time)",
    "forecast": "forecast(value, time, steps[, season])",
    "histogram_quantile": "histogram_quantile(histogram, q)",
    "increase": "increase(value, time)",
    "interpolate": "interpolate(value, time[, series])",
    "latest": "latest(value, time)",
    "locf": "locf(value, time[, series])",
    "lttb": "lttb(time, value, points)",
    "rate": "rate(value, time)",
    "time_bucket_gapfill": "time_bucket_gapfill(width, start, end)",
}
