-- What two people of a small site ran: what docs/sql.md asks about. Digits is over for long, speech goes on.

ALTER TABLE metrics ADD COLUMN loss double precision, ADD COLUMN val_loss double precision;

INSERT INTO experiments (id, name, user_name, time_created, tags) OVERRIDING SYSTEM VALUE VALUES
    (1, 'digits', 'alice', '2026-02-02 09:00Z', '{"vision": true}'),
    (2, 'speech', 'bob', now() - interval '5 days', NULL);

INSERT INTO submissions (uuid, user_name, slurm_user, cluster, time, submit_line, script, work_dir, git) VALUES
    ('00000000-0000-0000-0000-000000000001', 'alice', 'alice', 'mini', '2026-02-02 09:00Z', 'sbatch --array=0-5 digits.sh',
     E'#!/bin/sh\npython digits.py', '/home/alice/digits', '{"commit": "4fd2c1e", "branch": "main", "dirty": false}'),
    ('00000000-0000-0000-0000-000000000002', 'bob', 'bob', 'mini', now() - interval '5 days', 'sbatch speech.sh',
     E'#!/bin/sh\npython speech.py', '/home/bob/speech', '{"commit": "9a0b7de", "branch": "wide", "dirty": true}');

-- digits: an array over three learning rates, with two seeds each.
INSERT INTO runs (id, experiment_id, status, time_created, time_started, time_ended, tags, args, submission, task, user_name,
                  cluster, slurm_job_id, array_job_id, array_task_id, job_name, partition, account, time_limit, exit_code,
                  node_list, reason, kind)
OVERRIDING SYSTEM VALUE
SELECT 1 + t, 1, (ARRAY['FAILED', 'COMPLETED', 'COMPLETED', 'COMPLETED', 'TIMEOUT', 'COMPLETED'])[1 + t]::runstatus,
       '2026-02-02 09:00Z', started, started + CASE t WHEN 0 THEN interval '21 min' WHEN 4 THEN interval '2 h' ELSE interval '1 h' END,
       CASE WHEN t = 3 THEN '{"baseline": true}'::jsonb END,
       jsonb_build_object('lr', (ARRAY[0.1, 0.01, 0.001])[1 + t / 2], 'seed', t % 2, 'layers', 4),
       '00000000-0000-0000-0000-000000000001', t, 'alice', 'mini', 1200 + t, 1200, t, 'digits', 'gpu', 'lab', '2 h',
       CASE t WHEN 0 THEN 1 WHEN 4 THEN NULL ELSE 0 END, 'g' || 1 + t % 2, NULL,
       'batch'
FROM generate_series(0, 5) AS t, LATERAL (SELECT timestamptz '2026-02-02 09:10Z' + t / 2 * interval '2 h' AS started) s;

INSERT INTO metrics (run_id, step, progress, time, attempt, loss, val_loss, extra)
SELECT r.id, step, step / 20.0, r.time_started + step * interval '3 min', 0,
       CASE WHEN r.id = 1 AND step = 7 THEN 'NaN' ELSE round((0.2 + exp(-step * rate) + 0.01 * seed)::numeric, 4) END,
       CASE WHEN step % 5 = 0 THEN round((0.25 + exp(-step * rate) + overfit * step + 0.01 * seed)::numeric, 4) END,
       CASE WHEN step % 5 = 0 THEN jsonb_build_object('accuracy', round((1 - exp(-step * rate) / 2)::numeric, 3)) END
FROM runs r, generate_series(1, 20) AS step,
     LATERAL (SELECT (r.args ->> 'seed')::integer AS seed, sqrt((r.args ->> 'lr')::numeric) AS rate,
                     CASE WHEN r.args ->> 'lr' = '0.1' THEN 0.01 ELSE 0 END AS overfit) a
WHERE r.experiment_id = 1 AND (r.id <> 1 OR step <= 7);

-- speech: what happens to jobs.
INSERT INTO runs (id, experiment_id, status, time_created, time_started, time_ended, args, submission, task, user_name,
                  cluster, slurm_job_id, job_name, partition, account, time_limit, attempt, exit_code, exit_signal, node_list,
                  reason, kind)
OVERRIDING SYSTEM VALUE
SELECT id, 2, status::runstatus, now() - submitted::interval, now() - started::interval, now() - ended::interval,
       jsonb_build_object('lr', 0.01, 'width', width, 'layers', 6), '00000000-0000-0000-0000-000000000002', id::integer, 'bob',
       'mini', 1293 + id, 'speech', partition, 'lab', '12 h', attempt, exit_code, exit_signal, node_list, reason,
       'batch'
FROM (VALUES
    (7, 'OUT_OF_MEMORY', '5 d', '5 d', '4 d 22 h', 4096, 'gpu', 0, NULL, 9, 'g1', NULL),
    (8, 'COMPLETED', '4 d', '3 d 10 h', '3 d', 512, 'scav', 2, 0, NULL, 'g2', NULL),
    (9, 'NODE_FAIL', '3 d', '2 d 20 h', '2 d 18 h', 512, 'gpu', 0, NULL, NULL, 'g3', NULL),
    (10, 'RUNNING', '9 h', '8 h', NULL, 512, 'gpu', 0, NULL, NULL, 'g1', NULL),
    (11, 'RUNNING', '6 h', '4 h', NULL, 1024, 'gpu', 0, NULL, NULL, 'g2', NULL),
    (12, 'PENDING', '2 h', NULL, NULL, 2048, 'gpu', 0, NULL, NULL, NULL, 'Priority')
) AS v (id, status, submitted, started, ended, width, partition, attempt, exit_code, exit_signal, node_list, reason);

INSERT INTO metrics (run_id, step, progress, time, attempt, loss, val_loss)
SELECT id, step, step / 100.0, now() - silent::interval - (last - step) * interval '2 min', attempt,
       round((1 + 2 / sqrt(step))::numeric, 4), CASE WHEN step % 10 = 0 THEN round((1.1 + 2 / sqrt(step))::numeric, 4) END
FROM (VALUES (8, 100, '3 d', 2), (10, 60, '3 h 10 min', 0), (11, 40, '1 min', 0)) AS v (id, last, silent, attempt),
     generate_series(1, last) AS step;

-- What the collector and the reconciler keep of all of them.
INSERT INTO run_latest (run_id, next_step, last_step, last_time, last, rows, lost)
SELECT run_id, max(step) + 1, max(step), max(time),
       jsonb_build_object('loss', (array_agg(loss ORDER BY step DESC))[1],
                          'val_loss', (array_agg(val_loss ORDER BY step DESC) FILTER (WHERE val_loss IS NOT NULL))[1]),
       count(*), CASE WHEN run_id = 9 THEN 3 ELSE 0 END
FROM metrics GROUP BY run_id;
INSERT INTO streams (run_id, journal_id, rows, torn) SELECT run_id, '00000000000000aa', rows, 0 FROM run_latest;
INSERT INTO run_latest (run_id, lost) VALUES (9, 3);
INSERT INTO streams (run_id, journal_id, rows, torn, lost) VALUES (9, '00000000000000aa', 0, 1, 2);

INSERT INTO attempts (run_id, attempt, slurm_job_id, status, time_submitted, time_started, time_ended, exit_code, node_list,
                      batch_host, stderr_tail, resources)
SELECT id, 0, slurm_job_id, status, time_created, time_started, time_ended, exit_code, node_list, node_list,
       CASE WHEN id = 1 THEN E'Traceback (most recent call last):\n  ...\nFloatingPointError: loss is nan' END,
       jsonb_build_object('elapsed_s', extract(epoch FROM time_ended - time_started),
                          'cpu_s', CASE WHEN experiment_id = 1 THEN 7.5 ELSE 0.9 END * extract(epoch FROM time_ended - time_started),
                          'max_rss_bytes', CASE id WHEN 7 THEN 64 ELSE 6 END * 2 ^ 30,
                          'req_tres', jsonb_build_object('cpu', 8, 'mem', 64 * 2 ^ 30, 'gres/gpu', 1),
                          'alloc_tres', jsonb_build_object('cpu', 8, 'mem', 64 * 2 ^ 30, 'gres/gpu', 1))
FROM runs WHERE time_ended IS NOT NULL AND attempt = 0;
INSERT INTO attempts (run_id, attempt, slurm_job_id, status, time_submitted, time_started, time_ended, node_list, batch_host, resources)
SELECT 8, attempt, 1301, status::runstatus, now() - submitted::interval, now() - started::interval, now() - ended::interval, node, node,
       jsonb_build_object('elapsed_s', extract(epoch FROM started::interval - ended::interval), 'cpu_s', 100000, 'max_rss_bytes', 20 * 2 ^ 30,
                          'req_tres', '{"cpu": 8, "mem": 68719476736, "gres/gpu": 1}'::jsonb,
                          'alloc_tres', '{"cpu": 8, "mem": 68719476736, "gres/gpu": 1}'::jsonb)
FROM (VALUES (0, 'PREEMPTED', '4 d', '3 d 23 h', '3 d 20 h', 'g1'), (1, 'PREEMPTED', '3 d 20 h', '3 d 16 h', '3 d 15 h', 'g2'),
             (2, 'COMPLETED', '3 d 15 h', '3 d 10 h', '3 d', 'g2')) AS v (attempt, status, submitted, started, ended, node);
INSERT INTO attempts (run_id, attempt, slurm_job_id, status, time_submitted, time_started, node_list, batch_host)
SELECT id, 0, slurm_job_id, status, time_created, time_started, node_list, node_list FROM runs WHERE status = 'RUNNING';

INSERT INTO transitions (run_id, attempt, status, time, source, reason, raw)
SELECT 8, attempt, status::runstatus, now() - ago::interval, source, reason, raw
FROM (VALUES
    (0, 'PENDING', '4 d', 'submit', NULL, NULL), (0, 'RUNNING', '3 d 23 h', 'relay', 'hello', NULL),
    (0, NULL, '3 d 20 h 1 min', 'relay', 'sent to every process of the job', 'SIGTERM'),
    (0, 'PREEMPTED', '3 d 20 h', 'sacct', NULL, 'PREEMPTED'), (1, 'RUNNING', '3 d 16 h', 'relay', 'hello', NULL),
    (1, 'PREEMPTED', '3 d 15 h', 'sacct', NULL, 'PREEMPTED'), (2, 'RUNNING', '3 d 10 h', 'relay', 'hello', NULL),
    (2, 'COMPLETED', '3 d', 'sacct', NULL, 'COMPLETED')
) AS v (attempt, status, ago, source, reason, raw);
