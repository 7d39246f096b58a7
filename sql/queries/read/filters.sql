-- Statistics of metrics that lists of runs look at; parts of the statements of lists.sql.

-- name: settled_summaries
-- The statistics of a metric in runs that are over.
(SELECT m.run_id AS of_run, m.min AS min_value, m.max AS max_value, m.first AS first_value, m.last AS last_value,
        m.count AS count_value, m.nans AS nans_value
 FROM run_metrics m
 WHERE m.name_id = (SELECT n.id FROM metric_names n WHERE n.name = {metric}::text)) {alias}

-- name: live_summaries
-- And in the few others, as far as they are known.
(SELECT l.run_id AS of_run, m.min AS min_value, m.max AS max_value, m.first AS first_value, m.last AS last_value,
        m.count AS count_value, m.nans AS nans_value
 FROM run_latest l CROSS JOIN LATERAL statistics_of(l.stats -> {metric}::text) m
 WHERE NOT l.settled AND l.stats ? {metric}::text) {alias}

-- name: joined_summaries
-- Both, of the runs that are looked at.
LEFT JOIN (SELECT * FROM {settled} UNION ALL SELECT * FROM {live}) {alias} ON {alias}.of_run = id

-- name: leading_summaries
-- The first in an order. The limit keeps conditions on other fields out: for those that few meet, PostgreSQL would walk
-- through all runs in this order. Below UNION ALL it takes the order of an index only where it is told to.
(SELECT * FROM ((SELECT * FROM {settled} WHERE {condition} ORDER BY {order}, of_run DESC LIMIT {most})
                UNION ALL SELECT * FROM {live} WHERE {condition}) {alias}
 ORDER BY {order}, of_run DESC LIMIT {most}) {alias}

-- name: joined_leading
-- The runs that have them.
JOIN {leading} ON {alias}.of_run = id

-- name: leading_filled
-- Whether there may be others.
(SELECT count(*) FROM {leading}) = {most}
