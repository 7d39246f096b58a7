-- The whole schema. Runs inside the schema that `hpctrack setup` created, which is alone on the search_path.

-- Functions that take the search_path FROM CURRENT look into temporary tables, which anybody can make, last.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- Base tables: names, columns, defaults and keys of SQLTrack, so that SQL and clients written for it keep working.

CREATE TABLE applied_migrations (
    name         text PRIMARY KEY,
    checksum     text,
    built_in     boolean NOT NULL DEFAULT false,
    time_applied timestamptz NOT NULL DEFAULT current_timestamp
);
COMMENT ON TABLE applied_migrations IS 'Ledger of hpctrack''s migrations and of the SQL files given to hpctrack setup';
COMMENT ON COLUMN applied_migrations.name IS 'Name of the file';
COMMENT ON COLUMN applied_migrations.checksum IS
    'SHA-256 of the file as applied, in hexadecimal; a changed file is refused. NULL where a client of SQLTrack applied it';
COMMENT ON COLUMN applied_migrations.built_in IS 'Whether it is one of hpctrack''s own migrations';
COMMENT ON COLUMN applied_migrations.time_applied IS 'When it was applied';

-- `sqltrack setup v001.sql` looks for its own schema by this name, and goes on with the user's files.
INSERT INTO applied_migrations (name, checksum)
VALUES ('base.sql', '45aa9529a81a69944f95181a997dc442156f9800e1133d22ca59511f9e029850');

-- What users write is read by the reconciler and in everybody's lists: no time there is infinite, or beyond what
-- programs can hold.
CREATE FUNCTION is_plain(VARIADIC times timestamptz[]) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '0001-01-01 00:00+00'::timestamptz <= ALL (times) IS NOT FALSE
           AND '10000-01-01 00:00+00'::timestamptz > ALL (times) IS NOT FALSE;
COMMENT ON FUNCTION is_plain IS 'Whether times, as far as they are known, are of years 1 to 9999';

-- hpctrack/limits.py has the same bounds, and why. Values of JSON: bytes, unpacked, and 128 levels, which less than
-- 1,000 bytes can't hold. STABLE, as pg_column_size() is, so that it is worked out in place.
CREATE FUNCTION is_fitting(value jsonb, bytes integer) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN value IS NULL OR pg_column_size(value || '{}') < 1000
           OR pg_column_size(value || '{}') <= bytes AND NOT jsonb_path_exists(value, '$.**{128}');
COMMENT ON FUNCTION is_fitting IS 'Whether a value of JSON has at most so many bytes, and is nested no deeper than readers can follow';

CREATE FUNCTION for_lists(value jsonb) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE WHEN pg_column_size(value) > 250 AND pg_column_size(value || '{}') > 65536
                THEN jsonb_build_object('', 'too large for a list: ' || pg_column_size(value || '{}') || ' bytes')
                ELSE value END;
COMMENT ON FUNCTION for_lists IS 'A value of JSON as lists of runs have it: one of more than 64 KiB in one row would be in everybody''s way';

-- Ids of experiments and runs. Clients of SQLTrack may bring an id, and so may anybody in SQL; caches, datagrams on
-- their way and people's notes know things by their ids. So an id is only ever what its sequence gave for this one row:
-- one that is brought is drawn from the sequence, too, up to it, which costs the ids in between. Nothing that was given
-- comes again, whether its row was deleted, rolled back, or still is somebody's secret in an open transaction; and no id
-- is taken before its turn. That is no DEFAULT, which could not be told from the same number, brought.
CREATE SEQUENCE experiments_id_seq AS bigint MAXVALUE 2147483647;
CREATE SEQUENCE runs_id_seq AS bigint MAXVALUE 2147483647;

CREATE FUNCTION give_id() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
    -- Ids that are brought leave the sequence most of its numbers, and nobody jumps far with one of them.
    last_brought CONSTANT bigint := 1073741824;
    farthest CONSTANT bigint := 1048576;
    ids CONSTANT regclass := TG_ARGV[0];
    given bigint;
    drawn bigint := 0;
BEGIN
    IF TG_OP = 'INSERT' AND NEW.id IS NULL THEN
        NEW.id := nextval(ids);
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        RAISE EXCEPTION 'id % of % stays as it is', OLD.id, TG_TABLE_NAME USING ERRCODE = 'check_violation';
    END IF;
    given := coalesce(pg_sequence_last_value(ids), 0);
    IF NEW.id NOT BETWEEN 1 AND least(given + farthest, last_brought) THEN
        RAISE EXCEPTION 'id % of % can''t be chosen: leave it out, or take one from % to %', NEW.id, TG_TABLE_NAME,
            given + 1, least(given + farthest, last_brought) USING ERRCODE = 'check_violation';
    END IF;
    WHILE NEW.id > given AND drawn < NEW.id LOOP
        drawn := nextval(ids);
    END LOOP;
    IF NEW.id <> drawn THEN
        RAISE EXCEPTION 'id % of % was given before, perhaps to one that was deleted: leave it out', NEW.id, TG_TABLE_NAME
            USING ERRCODE = 'unique_violation';
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION give_id IS 'Trigger: the id of a row, which its sequence never gave before; the argument is the sequence';
REVOKE EXECUTE ON FUNCTION give_id FROM PUBLIC;

-- By these lists are sorted and cut, everybody's: what is to come would stand at their top for ever.
CREATE FUNCTION refuse_future() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'time_created of % is in the future: %', TG_TABLE_NAME, NEW.time_created USING ERRCODE = 'check_violation';
END $$;
COMMENT ON FUNCTION refuse_future IS 'Trigger: nothing is made later than now, give or take a day';

CREATE TABLE experiments (
    id           bigint PRIMARY KEY,
    time_created timestamptz NOT NULL DEFAULT current_timestamp,
    name         text NOT NULL UNIQUE,
    comment      text,
    tags         jsonb,
    user_name    text NOT NULL DEFAULT session_user,
    archived     boolean NOT NULL DEFAULT false,
    goals        jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT plain_id CHECK (id BETWEEN 1 AND 2147483647),
    CONSTRAINT plain_times CHECK (is_plain(time_created)),
    CONSTRAINT fitting_name CHECK (octet_length(name) <= 1000),
    CONSTRAINT fitting_comment CHECK (octet_length(comment) <= 65536),
    CONSTRAINT fitting_tags CHECK (is_fitting(tags, 524288)),
    CONSTRAINT fitting_goals CHECK (is_fitting(goals, 131072)),
    CONSTRAINT max_or_min CHECK (
        CASE jsonb_typeof(goals) WHEN 'object'
             THEN NOT jsonb_path_exists(goals, 'strict $.* ? (@.type() != "string" || (@ != "max" && @ != "min"))')
             ELSE false END)
);
ALTER SEQUENCE experiments_id_seq OWNED BY experiments.id;
CREATE TRIGGER give_id BEFORE INSERT ON experiments FOR EACH ROW EXECUTE FUNCTION give_id('experiments_id_seq');
CREATE TRIGGER refuse_future BEFORE INSERT OR UPDATE OF time_created ON experiments
    FOR EACH ROW WHEN (NEW.time_created > current_timestamp + interval '1 day') EXECUTE FUNCTION refuse_future();
CREATE TRIGGER keep_id BEFORE UPDATE OF id ON experiments
    FOR EACH ROW WHEN (NEW.id IS DISTINCT FROM OLD.id) EXECUTE FUNCTION give_id('experiments_id_seq');
CREATE INDEX experiments_tags_gin ON experiments USING gin (tags);
COMMENT ON TABLE experiments IS 'Named groups of runs';
COMMENT ON COLUMN experiments.id IS 'The experiment''s id';
COMMENT ON COLUMN experiments.time_created IS 'When it was first named';
COMMENT ON COLUMN experiments.name IS 'Its name, as given with --experiment';
COMMENT ON COLUMN experiments.comment IS 'Whatever people note about it';
COMMENT ON COLUMN experiments.tags IS 'Object whose keys are the tags; the value is true, or what was given as name=value';
COMMENT ON COLUMN experiments.user_name IS 'Who named it first: who may rename, tag and delete it. Anybody''s runs may belong to it; default is the site''s own';

COMMENT ON COLUMN experiments.goals IS 'Object: of metrics whether more is better ("max") or less ("min")';
COMMENT ON COLUMN experiments.archived IS 'Whether lists leave it out, as long as all its runs are archived, too';

CREATE TABLE experiment_relationships (
    from_id bigint NOT NULL REFERENCES experiments ON DELETE CASCADE,
    kind    text   NOT NULL,
    to_id   bigint NOT NULL REFERENCES experiments ON DELETE CASCADE,
    PRIMARY KEY (from_id, kind, to_id),
    CONSTRAINT fitting_kind CHECK (octet_length(kind) <= 255)
);
COMMENT ON TABLE experiment_relationships IS 'Directed, named links between experiments';
COMMENT ON COLUMN experiment_relationships.from_id IS 'The experiment that the link starts from; its owner makes and removes links';
COMMENT ON COLUMN experiment_relationships.kind IS 'What the link means, in the words of whoever made it';
COMMENT ON COLUMN experiment_relationships.to_id IS 'The experiment that the link leads to';

CREATE TYPE runstatus AS ENUM (
    'BOOT_FAIL', 'CANCELLED', 'CONFIGURING', 'COMPLETED', 'COMPLETING', 'DEADLINE', 'FAILED', 'NODE_FAIL',
    'OUT_OF_MEMORY', 'PENDING', 'PREEMPTED', 'RESV_DEL_HOLD', 'REQUEUE_FED', 'REQUEUE_HOLD', 'REQUEUED',
    'RESIZING', 'REVOKED', 'RUNNING', 'SIGNALING', 'SPECIAL_EXIT', 'STAGE_OUT', 'STOPPED', 'SUSPENDED', 'TIMEOUT',
    -- added by Slurm releases after SQLTrack
    'LAUNCH_FAILED', 'RECONFIG_FAIL', 'EXPEDITING', 'POWER_UP_NODE'
);
COMMENT ON TYPE runstatus IS 'Slurm''s job states and state flags, one-to-one';

CREATE TABLE submissions (
    uuid        uuid PRIMARY KEY,
    user_name   text NOT NULL,
    slurm_user  text,
    cluster     text,
    time        timestamptz NOT NULL,
    submit_line text,
    script      text,
    script_path text,
    script_sha256 text,
    work_dir    text,
    git         jsonb,
    env         jsonb,
    CONSTRAINT plain_times CHECK (is_plain(time)),
    CONSTRAINT fitting_texts CHECK (octet_length(user_name) <= 255 AND octet_length(slurm_user) <= 255
                                    AND octet_length(cluster) <= 255 AND octet_length(script_sha256) <= 255
                                    AND octet_length(script_path) <= 4096 AND octet_length(work_dir) <= 4096),
    CONSTRAINT fitting_submit_line CHECK (octet_length(submit_line) <= 262144),
    CONSTRAINT fitting_script CHECK (octet_length(script) <= 4194304),
    CONSTRAINT fitting_values CHECK (is_fitting(git, 131072) AND is_fitting(env, 2097152))
);
COMMENT ON TABLE submissions IS 'What one hpctrack sbatch or hpctrack run handed in, once however many array tasks; secrets are masked';
COMMENT ON COLUMN submissions.uuid IS 'Made by whoever submits; on the wire a run is called by this and its task';
COMMENT ON COLUMN submissions.user_name IS 'PostgreSQL login that registered it';
COMMENT ON COLUMN submissions.slurm_user IS 'Whose jobs these are for Slurm; user_name is who registered them with PostgreSQL';
COMMENT ON COLUMN submissions.cluster IS 'Slurm''s ClusterName; NULL for a run outside Slurm';
COMMENT ON COLUMN submissions.time IS 'When it was submitted, by the clock of the host it was submitted from';
COMMENT ON COLUMN submissions.submit_line IS 'The command as it was typed';
COMMENT ON COLUMN submissions.script IS 'Text of the batch script; NULL for a command';
COMMENT ON COLUMN submissions.script_path IS 'File that it was read from; NULL for --wrap and standard input';
COMMENT ON COLUMN submissions.script_sha256 IS 'SHA-256 of the script itself, without masks, in hexadecimal';
COMMENT ON COLUMN submissions.work_dir IS 'Folder that it was submitted from';
COMMENT ON COLUMN submissions.git IS 'Object: commit, branch, dirty (null: not known), remote of the work dir; NULL where that is no git repository';
COMMENT ON COLUMN submissions.env IS 'Environment at submission; what differs on the node is in runs.env';

CREATE TABLE runs (
    id            bigint PRIMARY KEY,
    experiment_id bigint NOT NULL REFERENCES experiments ON DELETE CASCADE,
    status        runstatus NOT NULL DEFAULT 'PENDING',
    time_created  timestamptz NOT NULL DEFAULT current_timestamp,
    time_started  timestamptz,
    time_updated  timestamptz,
    comment       text,
    tags          jsonb,
    submission    uuid REFERENCES submissions,
    task          integer,
    user_name     text NOT NULL DEFAULT session_user,
    cluster       text,
    slurm_job_id  bigint,
    array_job_id  bigint,
    array_task_id integer,
    het_job_id    bigint,
    job_name      text,
    partition     text,
    account       text,
    qos           text,
    time_limit    interval,
    stdout_path   text,
    stderr_path   text,
    attempt       integer NOT NULL DEFAULT 0,
    time_ended    timestamptz,
    exit_code     integer,
    exit_signal   integer,
    reason        text,
    node_list     text,
    slurm_state   text,
    time_seen     timestamptz,
    kind          text NOT NULL DEFAULT 'client' CHECK (kind IN ('batch', 'command', 'client')),
    archived      boolean NOT NULL DEFAULT false,
    missing_since timestamptz,
    recheck_after timestamptz,
    time_stopped  timestamptz,
    suspended     interval NOT NULL DEFAULT '0',
    sluid         text,
    visible       text CHECK (visible IN ('own', 'account', 'all')),
    args          jsonb,  -- details stand last: see run_facts
    env           jsonb,
    UNIQUE (submission, task),
    CONSTRAINT ended_by_client CHECK (kind <> 'client' OR submission IS NULL),
    CONSTRAINT plain_id CHECK (id BETWEEN 1 AND 2147483647),
    CONSTRAINT plain_times CHECK (is_plain(time_created, time_started, time_updated, time_ended, time_seen,
                                           missing_since, recheck_after, time_stopped)),
    CONSTRAINT plain_suspended CHECK (suspended BETWEEN interval '0' AND interval '1000 years'),
    CONSTRAINT plain_time_limit CHECK (time_limit BETWEEN interval '0' AND interval '1000 years'),
    CONSTRAINT plain_attempt CHECK (attempt BETWEEN 0 AND 65535),
    CONSTRAINT fitting_texts CHECK (octet_length(user_name) <= 255 AND octet_length(cluster) <= 255
                                    AND octet_length(job_name) <= 1000 AND octet_length(partition) <= 4096
                                    AND octet_length(account) <= 255 AND octet_length(qos) <= 255
                                    AND octet_length(stdout_path) <= 4096 AND octet_length(stderr_path) <= 4096
                                    AND octet_length(reason) <= 4096 AND octet_length(node_list) <= 65536
                                    AND octet_length(slurm_state) <= 255 AND octet_length(sluid) <= 255),
    CONSTRAINT fitting_comment CHECK (octet_length(comment) <= 65536),
    CONSTRAINT fitting_tags CHECK (is_fitting(tags, 524288)),
    CONSTRAINT fitting_args CHECK (is_fitting(args, 2097152)),
    CONSTRAINT fitting_env CHECK (is_fitting(env, 2097152))
);
ALTER SEQUENCE runs_id_seq OWNED BY runs.id;
CREATE TRIGGER give_id BEFORE INSERT ON runs FOR EACH ROW EXECUTE FUNCTION give_id('runs_id_seq');
CREATE TRIGGER refuse_future BEFORE INSERT OR UPDATE OF time_created ON runs
    FOR EACH ROW WHEN (NEW.time_created > current_timestamp + interval '1 day') EXECUTE FUNCTION refuse_future();
CREATE TRIGGER keep_id BEFORE UPDATE OF id ON runs
    FOR EACH ROW WHEN (NEW.id IS DISTINCT FROM OLD.id) EXECUTE FUNCTION give_id('runs_id_seq');
CREATE INDEX runs_tags_gin ON runs USING gin (tags);
CREATE INDEX runs_args_gin ON runs USING gin (args);
CREATE INDEX runs_experiment ON runs (experiment_id, id);
-- Whether there is a run of somebody's, or of an account's, in an experiment.
CREATE INDEX runs_experiment_user ON runs (experiment_id, user_name);
CREATE INDEX runs_experiment_account ON runs (experiment_id, account);
CREATE INDEX runs_narrowed ON runs (id) WHERE visible IN ('own', 'account');
CREATE INDEX runs_user ON runs (user_name, id);
CREATE INDEX runs_status ON runs (status, id);
CREATE INDEX runs_created ON runs (time_created);
CREATE INDEX runs_job_name ON runs (job_name text_pattern_ops);
CREATE INDEX runs_job ON runs (slurm_job_id) WHERE slurm_job_id IS NOT NULL;
CREATE INDEX runs_array_job ON runs (array_job_id) WHERE array_job_id IS NOT NULL;
CREATE INDEX runs_het_job ON runs (het_job_id) WHERE het_job_id IS NOT NULL;
-- What the reconciler looks at: few rows, however many have ended.
CREATE INDEX runs_open ON runs (cluster, user_name, id)
    WHERE (time_ended IS NULL OR recheck_after IS NOT NULL) AND submission IS NOT NULL;
-- What lists look at: few rows, however many are archived.
CREATE INDEX runs_listed ON runs (id) WHERE NOT archived;
CREATE INDEX runs_sluid ON runs (sluid) WHERE sluid IS NOT NULL;
-- Those that Slurm may still requeue.
CREATE INDEX runs_ended ON runs (cluster, time_ended) WHERE time_ended IS NOT NULL AND submission IS NOT NULL;
COMMENT ON TABLE runs IS 'Tracked jobs: a batch job, one task of a job array, a heterogeneous job, or one hpctrack run command';
COMMENT ON COLUMN runs.id IS 'The run''s own id, written r7';
COMMENT ON COLUMN runs.experiment_id IS 'The experiment that it belongs to';
COMMENT ON COLUMN runs.status IS 'Slurm''s latest verdict';
COMMENT ON COLUMN runs.time_created IS 'When it was submitted';
COMMENT ON COLUMN runs.time_started IS 'When the latest attempt started';
COMMENT ON COLUMN runs.time_updated IS 'Last change of the row';
COMMENT ON COLUMN runs.comment IS 'Whatever people note about it (--note)';
COMMENT ON COLUMN runs.tags IS 'Object whose keys are the tags; the value is true, or what was given as name=value';
COMMENT ON COLUMN runs.args IS 'Arguments of the script, and what set_args() added';
COMMENT ON COLUMN runs.env IS 'What differs on the node from submissions.env; secrets are masked';
COMMENT ON COLUMN runs.submission IS 'The submission that it came with; NULL for a run that SQL or a client of SQLTrack made';
COMMENT ON COLUMN runs.task IS 'Array task id on the wire; -1 for a run that is not an array task';
COMMENT ON COLUMN runs.slurm_job_id IS 'Raw job id (SLURM_JOB_ID); of an array task known once Slurm splits it off';
COMMENT ON COLUMN runs.user_name IS 'PostgreSQL login whose run it is: only they may change and delete it';
COMMENT ON COLUMN runs.cluster IS 'Slurm''s ClusterName; NULL outside Slurm';
COMMENT ON COLUMN runs.array_job_id IS 'Id of the job array (SLURM_ARRAY_JOB_ID)';
COMMENT ON COLUMN runs.array_task_id IS 'Task of the job array (SLURM_ARRAY_TASK_ID)';
COMMENT ON COLUMN runs.het_job_id IS 'Id of the heterogeneous job (SLURM_HET_JOB_ID)';
COMMENT ON COLUMN runs.job_name IS 'Slurm''s job name; of a command its program';
COMMENT ON COLUMN runs.partition IS 'Slurm''s partition';
COMMENT ON COLUMN runs.account IS 'Slurm''s account';
COMMENT ON COLUMN runs.qos IS 'Slurm''s quality of service';
COMMENT ON COLUMN runs.time_limit IS 'Slurm''s time limit; NULL for none';
COMMENT ON COLUMN runs.stdout_path IS 'File of standard output';
COMMENT ON COLUMN runs.stderr_path IS 'File of standard error';
COMMENT ON COLUMN runs.attempt IS 'Greatest attempt seen; 0 is the first (SLURM_RESTART_COUNT)';
COMMENT ON COLUMN runs.time_ended IS 'When the run was over for good; NULL while it may still change';
COMMENT ON COLUMN runs.exit_code IS 'Exit code of the script itself; Slurm''s own verdict is status';
COMMENT ON COLUMN runs.exit_signal IS 'Signal that ended the script itself';
COMMENT ON COLUMN runs.reason IS 'Slurm''s reason (why pending, who cancelled), in its own words';
COMMENT ON COLUMN runs.node_list IS 'Nodes of the latest attempt, in Slurm''s notation: n[1-4]';
COMMENT ON COLUMN runs.slurm_state IS 'Slurm''s latest word for the state, unchanged, also where runstatus does not know it';
COMMENT ON COLUMN runs.time_seen IS 'When Slurm or the relay last vouched for the run; while it lives, renewed every five minutes';
COMMENT ON COLUMN runs.kind IS
    'Who ends it. batch: Slurm; command: hpctrack run; client: whoever made it, in SQL, with SQLTrack''s client or the API';
COMMENT ON COLUMN runs.archived IS 'Whether lists leave it out unless they are asked for such runs; it is tracked all the same';
COMMENT ON COLUMN runs.missing_since IS 'Since when squeue no longer lists a job that has not ended for accounting either';
COMMENT ON COLUMN runs.visible IS
    'Who may see it at most: own, account or all; NULL for whoever the site says. Shares (shares) come on top of it';
COMMENT ON COLUMN runs.sluid IS 'What Slurm calls the latest execution besides (SLURM_JOB_SLUID, from 24.11 on), also while it waits';
COMMENT ON COLUMN runs.time_stopped IS
    'Since when the latest attempt does not run although the run may go on: it is suspended, or has ended; NULL while it runs';
COMMENT ON COLUMN runs.suspended IS 'For how long the latest attempt was suspended, until time_stopped';
COMMENT ON COLUMN runs.recheck_after IS 'When accounting is to be asked once more about an end that it may still correct; NULL for none';

-- SQLTrack has no time_ended: its clients say by the status that a run is over, or goes on.
CREATE FUNCTION note_end() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    NEW.time_ended := CASE WHEN NEW.status IN ('COMPLETED', 'CANCELLED', 'FAILED', 'TIMEOUT', 'NODE_FAIL',
                                               'BOOT_FAIL', 'DEADLINE', 'OUT_OF_MEMORY')
                           THEN coalesce(NEW.time_ended, now()) END;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION note_end IS 'Trigger: when a run ended that SQL or a client of SQLTrack made';
CREATE TRIGGER note_end BEFORE UPDATE OF status ON runs
    FOR EACH ROW WHEN (NEW.kind = 'client' AND NEW.status <> OLD.status
                       AND NEW.time_ended IS NOT DISTINCT FROM OLD.time_ended)
    EXECUTE FUNCTION note_end();

CREATE TABLE run_relationships (
    from_id bigint NOT NULL REFERENCES runs ON DELETE CASCADE,
    kind    text   NOT NULL,
    to_id   bigint NOT NULL REFERENCES runs ON DELETE CASCADE,
    PRIMARY KEY (from_id, kind, to_id),
    CONSTRAINT fitting_kind CHECK (octet_length(kind) <= 255)
);
CREATE INDEX run_relationships_to ON run_relationships (to_id);
COMMENT ON TABLE run_relationships IS 'Directed, named links between runs';
COMMENT ON COLUMN run_relationships.from_id IS 'The run that the link starts from; its owner makes and removes links';
COMMENT ON COLUMN run_relationships.kind IS
    'What the link means; submitted: from_id submitted to_id from inside its job; reruns: from_id is to_id, submitted again';
COMMENT ON COLUMN run_relationships.to_id IS 'The run that the link leads to';

-- Divided by ranges of runs' ids, into one leaf until there is much: whoever divides it later leaves behind nothing that
-- users hung on it. A row without a leaf would count as refused: the last leaf has no upper end.
CREATE TABLE metrics (
    run_id   bigint NOT NULL REFERENCES runs ON DELETE CASCADE,
    step     bigint NOT NULL DEFAULT 0,
    progress double precision NOT NULL DEFAULT 0.0,
    time     timestamptz,
    attempt  integer,
    extra    jsonb CHECK (jsonb_typeof(extra) = 'object') CHECK (is_fitting(extra, 4194304)),
    numbered boolean CHECK (numbered),
    PRIMARY KEY (run_id, step, progress)
) PARTITION BY RANGE (run_id);
-- Policies hold for what they are asked through: a leaf shows nobody anything, whatever rights are given on it. It stands
-- beside the table, so that a dump of the schema has the rows.
CREATE TABLE metrics_leaf_1 PARTITION OF metrics FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
ALTER TABLE metrics_leaf_1 ENABLE ROW LEVEL SECURITY;
COMMENT ON TABLE metrics_leaf_1 IS 'Rows of metrics: to be read and written as metrics';
COMMENT ON TABLE metrics IS 'One row per run, step and progress; a column per metric, added by setup files or by the collector';
COMMENT ON COLUMN metrics.run_id IS 'The run that logged it';
COMMENT ON COLUMN metrics.step IS
    'Step as logged; a row logged without one has the next free number, and gives way to a row that brings that step';
COMMENT ON COLUMN metrics.progress IS
    'Progress as logged, in whatever unit (epochs, say); 0 is none: such a value stands in the row of its step that has one';
COMMENT ON COLUMN metrics.time IS 'Clock of the node when the latest value of the row was logged';
COMMENT ON COLUMN metrics.attempt IS 'Attempt that wrote the latest value of the row';
COMMENT ON COLUMN metrics.extra IS 'Object: values that have no column, by metric name; metric_number() reads them as numbers';
COMMENT ON COLUMN metrics.numbered IS 'true where the row was logged without a step, NULL elsewhere';

-- A cast would fail, and whoever reads a number of somebody else's with it.
CREATE FUNCTION as_double(value numeric) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN value > 1.7976931348623157e308 THEN 'Infinity'
                WHEN value < -1.7976931348623157e308 THEN '-Infinity'
                WHEN abs(value) < 5e-324 THEN 0
                ELSE value::double precision END;
COMMENT ON FUNCTION as_double IS 'A number of any size as a double: beyond the greatest infinite, below the least 0';

CREATE FUNCTION metric_number(value jsonb) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE jsonb_typeof(value)
        WHEN 'number' THEN as_double(value::numeric)
        WHEN 'boolean' THEN value::boolean::integer
        WHEN 'object' THEN
            CASE WHEN value ->> 'float' ~ '^(-?inf|nan)$' THEN (value ->> 'float')::double precision
                 WHEN value ->> 'float' ~ '^-?([0-9]{1,30}([.][0-9]{0,30})?|[.][0-9]{1,30})(e[+-]?[0-9]{1,3})?$'
                 THEN as_double((value ->> 'float')::numeric)
                 WHEN value ->> 'int' ~ '^-?[0-9]+$' AND length(value ->> 'int') < 309 THEN (value ->> 'int')::double precision
                 WHEN value ->> 'int' ~ '^(0x)?[0-9a-f]+$' THEN 'Infinity'
                 WHEN value ->> 'int' ~ '^-(0x)?[0-9a-f]+$' THEN '-Infinity' END
    END;
COMMENT ON FUNCTION metric_number IS 'A value of metrics.extra as a number; NULL where it is none. metric_number(extra -> ''train/loss'')';

CREATE FUNCTION count_number(value jsonb) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN metric_number(value) BETWEEN 0 AND 9007199254740992 THEN metric_number(value)::bigint END;
COMMENT ON FUNCTION count_number IS 'A value of JSON as a count, of bytes say; NULL where it is none. Exact up to 2^53';

CREATE FUNCTION statistics_of(cells jsonb)
    RETURNS TABLE (count bigint, nans bigint, min double precision, min_step bigint, max double precision, max_step bigint,
                   first double precision, first_step bigint, first_progress double precision,
                   last double precision, last_step bigint, last_progress double precision)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT (cells ->> 0)::bigint, (cells ->> 1)::bigint,
           metric_number(cells -> 2), (cells ->> 3)::bigint, metric_number(cells -> 4), (cells ->> 5)::bigint,
           metric_number(cells -> 6), (cells ->> 7)::bigint, metric_number(cells -> 8),
           metric_number(cells -> 9), (cells ->> 10)::bigint, metric_number(cells -> 11);
END;
COMMENT ON FUNCTION statistics_of IS 'The statistics of a metric in run_latest.stats, one value in each column';

-- The published client of SQLTrack calls the relationships links.
CREATE VIEW experiment_links WITH (security_invoker = true) AS SELECT from_id, kind, to_id FROM experiment_relationships;
CREATE VIEW run_links WITH (security_invoker = true) AS SELECT from_id, kind, to_id FROM run_relationships;
COMMENT ON VIEW experiment_links IS 'experiment_relationships under SQLTrack''s name; updatable';
COMMENT ON VIEW run_links IS 'run_relationships under SQLTrack''s name; updatable';

-- What hpctrack adds.

CREATE TABLE attempts (
    run_id         bigint  NOT NULL REFERENCES runs ON DELETE CASCADE,
    attempt        integer NOT NULL,
    slurm_job_id   bigint,
    status         runstatus,
    time_submitted timestamptz,
    time_started   timestamptz,
    time_ended     timestamptz,
    exit_code      integer,
    exit_signal    integer,
    slurm_exit_code   integer,
    slurm_exit_signal integer,
    node_list      text,
    batch_host     text,
    reason         text,
    sluid          text,
    resources      jsonb CHECK (jsonb_typeof(resources) = 'object'),
    stderr_tail    text,  -- a detail stands last: see attempt_facts
    PRIMARY KEY (run_id, attempt),
    CONSTRAINT plain_times CHECK (is_plain(time_submitted, time_started, time_ended)),
    CONSTRAINT plain_attempt CHECK (attempt BETWEEN 0 AND 65535),
    CONSTRAINT fitting_texts CHECK (octet_length(node_list) <= 65536 AND octet_length(batch_host) <= 4096
                                    AND octet_length(reason) <= 4096 AND octet_length(stderr_tail) <= 65536
                                    AND octet_length(sluid) <= 255),
    CONSTRAINT fitting_resources CHECK (is_fitting(resources, 65536))
);
CREATE INDEX attempts_sluid ON attempts (sluid) WHERE sluid IS NOT NULL;
COMMENT ON TABLE attempts IS
    'Executions of a run: one per start, also after a requeue or a preemption';
COMMENT ON COLUMN attempts.run_id IS 'The run';
COMMENT ON COLUMN attempts.attempt IS '0 for the first (SLURM_RESTART_COUNT)';
COMMENT ON COLUMN attempts.slurm_job_id IS 'Raw job id (SLURM_JOB_ID)';
COMMENT ON COLUMN attempts.status IS 'How it stands or how it ended, as Slurm says';
COMMENT ON COLUMN attempts.time_submitted IS 'When it was put into the queue';
COMMENT ON COLUMN attempts.time_started IS 'When it started';
COMMENT ON COLUMN attempts.time_ended IS 'When it ended; NULL while it lasts';
COMMENT ON COLUMN attempts.exit_signal IS 'Signal that ended the script, told by its supervisor';
COMMENT ON COLUMN attempts.slurm_exit_signal IS 'Signal in Slurm''s accounting';
COMMENT ON COLUMN attempts.node_list IS 'Its nodes, in Slurm''s notation: n[1-4]';
COMMENT ON COLUMN attempts.batch_host IS 'Node on which the script ran';
COMMENT ON COLUMN attempts.reason IS 'Slurm''s reason, in its own words';
COMMENT ON COLUMN attempts.exit_code IS 'Exit code of the script, told by its supervisor';
COMMENT ON COLUMN attempts.slurm_exit_code IS 'Exit code in Slurm''s accounting';
COMMENT ON COLUMN attempts.stderr_tail IS 'Last 4 KB of standard error of a failed attempt; secrets are masked';
COMMENT ON COLUMN attempts.sluid IS 'What Slurm calls it besides (SLURM_JOB_SLUID, from 24.11 on)';
COMMENT ON COLUMN attempts.resources IS
    'Object: elapsed_s, cpu_s, max_rss_bytes, and the objects req_tres and alloc_tres (cpu, mem in bytes, gres/gpu ...) as accounting says';

CREATE TABLE transitions (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id  bigint NOT NULL REFERENCES runs ON DELETE CASCADE,
    attempt integer NOT NULL DEFAULT 0,
    status  runstatus,
    time    timestamptz NOT NULL DEFAULT current_timestamp,
    source  text NOT NULL CHECK (source IN ('submit', 'relay', 'squeue', 'sacct', 'user')),
    reason  text,
    raw     text,
    CONSTRAINT plain_times CHECK (is_plain(time)),
    CONSTRAINT fitting_texts CHECK (octet_length(reason) <= 65536 AND octet_length(raw) <= 65536)
);
CREATE INDEX transitions_run ON transitions (run_id, id);
COMMENT ON TABLE transitions IS 'Timeline of a run: every change of its status, and signals that arrived';
COMMENT ON COLUMN transitions.id IS 'Number in the order in which they were learnt';
COMMENT ON COLUMN transitions.run_id IS 'The run';
COMMENT ON COLUMN transitions.attempt IS 'The attempt that it happened to';
COMMENT ON COLUMN transitions.status IS
    'New status; NULL where Slurm''s word (raw) is not in runstatus, and where the relay told of an event (raw)';
COMMENT ON COLUMN transitions.time IS 'When it happened, by the clock of the source';
COMMENT ON COLUMN transitions.source IS 'Who said so: submit, relay, squeue, sacct, or user';
COMMENT ON COLUMN transitions.reason IS 'Slurm''s reason, in its own words';
COMMENT ON COLUMN transitions.raw IS 'The source''s own words; of a signal its name';

CREATE TABLE usage (
    run_id         bigint  NOT NULL REFERENCES runs ON DELETE CASCADE,
    attempt        integer NOT NULL,
    node           text    NOT NULL,
    time           timestamptz NOT NULL,
    cpu_s          double precision,
    memory_bytes   bigint,
    memory_peak_bytes bigint,
    read_bytes     bigint,
    write_bytes    bigint,
    processes      integer,
    gpu            jsonb,
    PRIMARY KEY (run_id, attempt, node, time)
);
COMMENT ON TABLE usage IS 'Samples of what the job used on a node';
COMMENT ON COLUMN usage.run_id IS 'The run';
COMMENT ON COLUMN usage.attempt IS 'The attempt';
COMMENT ON COLUMN usage.node IS 'The node';
COMMENT ON COLUMN usage.time IS 'When, by the clock of the node';
COMMENT ON COLUMN usage.cpu_s IS 'Processor seconds since the attempt began (counts up)';
COMMENT ON COLUMN usage.memory_bytes IS 'Memory in use now, in bytes';
COMMENT ON COLUMN usage.memory_peak_bytes IS 'Most memory in use since the attempt began, in bytes';
COMMENT ON COLUMN usage.read_bytes IS 'Bytes read since the attempt began (counts up)';
COMMENT ON COLUMN usage.write_bytes IS 'Bytes written since the attempt began (counts up)';
COMMENT ON COLUMN usage.processes IS 'Number of processes now';
COMMENT ON COLUMN usage.gpu IS 'What the GPUs did, as the relay found it; NULL without any';

CREATE TABLE streams (
    run_id     bigint NOT NULL REFERENCES runs ON DELETE CASCADE,
    journal_id text   NOT NULL,
    attempt    integer NOT NULL DEFAULT 0,
    watermark  bigint NOT NULL DEFAULT 0,
    first_step bigint CHECK (first_step > 0),
    rows       bigint NOT NULL DEFAULT 0,
    lost       bigint NOT NULL DEFAULT 0,
    torn       bigint NOT NULL DEFAULT 0,
    rejected   bigint NOT NULL DEFAULT 0,
    replaced   bigint NOT NULL DEFAULT 0,
    duplicates bigint NOT NULL DEFAULT 0,
    time_first timestamptz NOT NULL DEFAULT current_timestamp,
    time_last  timestamptz NOT NULL DEFAULT current_timestamp,
    PRIMARY KEY (run_id, journal_id)
);
COMMENT ON TABLE streams IS 'How far each journal is in: the watermark moves in the same transaction as the rows';
COMMENT ON COLUMN streams.run_id IS 'The run';
COMMENT ON COLUMN streams.journal_id IS 'The journal: 16 hexadecimal digits, as in its file name';
COMMENT ON COLUMN streams.attempt IS 'The attempt that wrote it';
COMMENT ON COLUMN streams.first_step IS
    'Least positive step that a row of it brought, of an attempt after the first: such rows of earlier attempts are superseded';
COMMENT ON COLUMN streams.rows IS 'Rows of metrics that came in';
COMMENT ON COLUMN streams.time_first IS 'When something of it was first stored';
COMMENT ON COLUMN streams.time_last IS 'When something of it was last stored';
COMMENT ON COLUMN streams.watermark IS 'Byte offset in the journal up to which everything is in the tables';
COMMENT ON COLUMN streams.lost IS 'Lines that could not be written to the journal (disk full, cap)';
COMMENT ON COLUMN streams.torn IS 'Lines found damaged in the journal, or given back there before PostgreSQL was restored from an older dump';
COMMENT ON COLUMN streams.rejected IS 'Rows that PostgreSQL refused; kept in rejected';
COMMENT ON COLUMN streams.replaced IS 'Rows of an earlier attempt that this journal''s rows replaced';
COMMENT ON COLUMN streams.duplicates IS 'Datagrams that arrived again and changed nothing';

CREATE TABLE series_rows (
    run_id   bigint NOT NULL REFERENCES runs ON DELETE CASCADE,
    series   text   NOT NULL,
    idx      bigint NOT NULL,
    progress double precision,
    time     timestamptz,
    attempt  integer NOT NULL,
    numbered boolean CHECK (numbered),
    values   jsonb  NOT NULL,
    PRIMARY KEY (run_id, series, idx),
    CONSTRAINT fitting_series CHECK (octet_length(series) BETWEEN 1 AND 1000),
    CONSTRAINT fitting_values CHECK (jsonb_typeof(values) = 'object' AND is_fitting(values, 4194304))
);
COMMENT ON TABLE series_rows IS 'Rows that were logged with series=..., each series with steps of its own';
COMMENT ON COLUMN series_rows.run_id IS 'The run that logged it';
COMMENT ON COLUMN series_rows.series IS 'Name of the series';
COMMENT ON COLUMN series_rows.idx IS 'Step within the series as logged; a row logged without one has the next free number there';
COMMENT ON COLUMN series_rows.progress IS 'Progress as logged; NULL if not logged';
COMMENT ON COLUMN series_rows.time IS 'Clock of the node when the latest value of the row was logged';
COMMENT ON COLUMN series_rows.attempt IS 'Attempt that wrote the latest value of the row';
COMMENT ON COLUMN series_rows.numbered IS 'true where the row was logged without a step, NULL elsewhere';
COMMENT ON COLUMN series_rows.values IS 'Object: values by metric name; metric_number() reads them as numbers';

CREATE TABLE run_series (
    run_id    bigint  NOT NULL REFERENCES runs ON DELETE CASCADE,
    series    text    NOT NULL,
    attempt   integer NOT NULL,
    rows      bigint  NOT NULL DEFAULT 0,
    numbered  boolean NOT NULL DEFAULT false,
    next_idx  bigint  NOT NULL DEFAULT 0,
    first_idx bigint  CHECK (first_idx > 0),
    PRIMARY KEY (run_id, series, attempt)
);
COMMENT ON TABLE run_series IS 'The series of a run, by attempt';
COMMENT ON COLUMN run_series.run_id IS 'The run';
COMMENT ON COLUMN run_series.series IS 'Name of the series';
COMMENT ON COLUMN run_series.attempt IS 'The attempt';
COMMENT ON COLUMN run_series.rows IS 'Rows that it logged';
COMMENT ON COLUMN run_series.numbered IS 'Whether it logged rows without a step';
COMMENT ON COLUMN run_series.next_idx IS 'Step after its greatest one';
COMMENT ON COLUMN run_series.first_idx IS
    'Least positive step that it brought, if it is not the first: such rows of earlier attempts are superseded';

CREATE TABLE rejected (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id       bigint REFERENCES runs ON DELETE CASCADE,
    journal_id   text   NOT NULL,
    start_offset bigint NOT NULL,
    end_offset   bigint NOT NULL,
    time         timestamptz NOT NULL DEFAULT current_timestamp,
    sqlstate     text,
    reason       text NOT NULL,
    payload      bytea NOT NULL
);
CREATE INDEX rejected_run ON rejected (run_id);
COMMENT ON TABLE rejected IS 'Pieces of journals that PostgreSQL refused for their content';
COMMENT ON COLUMN rejected.id IS 'Number in the order in which they were refused';
COMMENT ON COLUMN rejected.run_id IS 'The run; NULL if it had been deleted';
COMMENT ON COLUMN rejected.journal_id IS 'The journal';
COMMENT ON COLUMN rejected.start_offset IS 'Byte offset in the journal where the piece begins';
COMMENT ON COLUMN rejected.end_offset IS 'Byte offset in the journal behind its end';
COMMENT ON COLUMN rejected.time IS 'When it was refused';
COMMENT ON COLUMN rejected.sqlstate IS 'PostgreSQL''s error code';
COMMENT ON COLUMN rejected.reason IS 'PostgreSQL''s words, at most 1,000 characters';
COMMENT ON COLUMN rejected.payload IS 'The piece itself: the body as in docs/wire.md';

CREATE TABLE run_latest (
    run_id    bigint PRIMARY KEY REFERENCES runs ON DELETE CASCADE,
    next_step bigint NOT NULL DEFAULT 0,
    last_step bigint,
    last_time timestamptz,
    last      jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(last) = 'object'),
    rows      bigint NOT NULL DEFAULT 0,
    numbered  boolean NOT NULL DEFAULT false,
    progressed boolean NOT NULL DEFAULT false,
    stats     jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(stats) = 'object'),
    unsummed  bigint NOT NULL DEFAULT 0,
    stale     boolean NOT NULL DEFAULT false,
    scans     integer NOT NULL DEFAULT 0 CHECK (scans >= 0),
    settled   boolean NOT NULL DEFAULT false,
    lost      bigint NOT NULL DEFAULT 0,
    waiting   bigint NOT NULL DEFAULT 0,
    CONSTRAINT plain_times CHECK (is_plain(last_time)),
    CONSTRAINT fitting_last CHECK (is_fitting(last, 1048576)),
    CONSTRAINT fitting_stats CHECK (is_fitting(stats, 1048576))
);
CREATE INDEX run_latest_unsettled ON run_latest (run_id) WHERE NOT settled;
COMMENT ON TABLE run_latest IS 'Latest values and counters of a run, so that lists never scan metrics';
COMMENT ON COLUMN run_latest.run_id IS 'The run';
COMMENT ON COLUMN run_latest.next_step IS 'Step that the next row logged without a step gets';
COMMENT ON COLUMN run_latest.last_step IS 'Step of the latest row';
COMMENT ON COLUMN run_latest.last_time IS 'Clock of the node when the latest row was logged';
COMMENT ON COLUMN run_latest.last IS 'Object: latest value of each metric; metric_number() reads them as numbers';
COMMENT ON COLUMN run_latest.rows IS 'Rows of metrics that came in';
COMMENT ON COLUMN run_latest.numbered IS 'Whether rows were logged without a step';
COMMENT ON COLUMN run_latest.progressed IS 'Whether rows were logged with progress';
COMMENT ON COLUMN run_latest.stats IS
    'Object: statistics of each metric while they are not in run_metrics, an array each; metric_summary shows them';
COMMENT ON COLUMN run_latest.unsummed IS 'Rows that stats do not tell of yet';
COMMENT ON COLUMN run_latest.stale IS 'Whether stats are to be reckoned anew from the rows: values were replaced or superseded, or another client wrote them';
COMMENT ON COLUMN run_latest.scans IS 'How often they were';
COMMENT ON COLUMN run_latest.settled IS 'Whether the run is over, and its statistics are in run_metrics';
COMMENT ON COLUMN run_latest.lost IS 'Lines lost, torn or rejected in all journals of the run';
COMMENT ON COLUMN run_latest.waiting IS 'Rows known to wait in the spool';

CREATE TABLE metric_names (
    id   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    CONSTRAINT fitting_name CHECK (octet_length(name) <= 4096)
);
COMMENT ON TABLE metric_names IS 'Names of metrics, so that run_metrics is small';
COMMENT ON COLUMN metric_names.id IS 'Its number in run_metrics';
COMMENT ON COLUMN metric_names.name IS 'Name of the metric';

CREATE TABLE run_metrics (
    run_id   bigint  NOT NULL REFERENCES runs ON DELETE CASCADE,
    name_id  integer NOT NULL REFERENCES metric_names,
    count    bigint  NOT NULL,
    nans     bigint  NOT NULL,
    min      double precision,
    min_step bigint,
    max      double precision,
    max_step bigint,
    first          double precision,
    first_step     bigint,
    first_progress double precision,
    last           double precision,
    last_step      bigint,
    last_progress  double precision,
    PRIMARY KEY (run_id, name_id)
);
-- In the orders in which lists have runs: hpctrack.store.read.filters, has_index.
CREATE INDEX run_metrics_min ON run_metrics (name_id, min, run_id DESC);
CREATE INDEX run_metrics_max ON run_metrics (name_id, max DESC NULLS LAST, run_id DESC);
COMMENT ON TABLE run_metrics IS 'Statistics of the metrics of runs that are over; metric_summary shows them with those of all others';
COMMENT ON COLUMN run_metrics.run_id IS 'The run';
COMMENT ON COLUMN run_metrics.name_id IS 'The metric, in metric_names';
COMMENT ON COLUMN run_metrics.count IS 'How many values there are; rows that a later attempt superseded do not count';
COMMENT ON COLUMN run_metrics.nans IS 'How many of them are NaN';
COMMENT ON COLUMN run_metrics.min IS 'Least value, apart from NaN';
COMMENT ON COLUMN run_metrics.min_step IS 'First step with the least value';
COMMENT ON COLUMN run_metrics.max IS 'Greatest value, apart from NaN';
COMMENT ON COLUMN run_metrics.max_step IS 'First step with the greatest value';
COMMENT ON COLUMN run_metrics.first IS 'Value at the first step that has one';
COMMENT ON COLUMN run_metrics.first_step IS 'That step';
COMMENT ON COLUMN run_metrics.first_progress IS 'And the progress there';
COMMENT ON COLUMN run_metrics.last IS 'Value at the last step that has one';
COMMENT ON COLUMN run_metrics.last_step IS 'That step';
COMMENT ON COLUMN run_metrics.last_progress IS 'And the progress there';

-- Whoever writes metrics in SQL says so by time_updated, as SQLTrack's client does after each row. Metrics may have
-- any name, that of an alias, too: m.* is the whole row whatever columns there are, a bare m is not.
CREATE FUNCTION note_latest() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
BEGIN
    INSERT INTO run_latest AS l (run_id, stale, next_step, last_step, last_time, last)
    SELECT m.run_id, true, least(m.step, 9223372036854775806) + 1, m.step, coalesce(m.time, NEW.time_updated),
           CASE WHEN pg_column_size(coalesce(m.extra, '{}') || coalesce(c.last, '{}')) < 1000000
                THEN coalesce(m.extra, '{}') || coalesce(c.last, '{}') ELSE '{}' END
    FROM (SELECT * FROM metrics WHERE run_id = NEW.id ORDER BY step DESC, progress DESC LIMIT 1) m,
         LATERAL (SELECT jsonb_object_agg(e.key, CASE e.value WHEN '"NaN"' THEN '{"float": "nan"}'
                                                              WHEN '"Infinity"' THEN '{"float": "inf"}'
                                                              WHEN '"-Infinity"' THEN '{"float": "-inf"}'
                                                              ELSE e.value END) AS last
                  FROM jsonb_each(to_jsonb(m.*) - '{run_id,step,progress,time,attempt,extra,numbered}'::text[]) e
                  WHERE e.value <> 'null') c
    ON CONFLICT (run_id) DO UPDATE
    SET stale = true, settled = false, next_step = greatest(l.next_step, excluded.next_step), last_step = excluded.last_step,
        last_time = excluded.last_time,
        last = CASE WHEN pg_column_size(l.last || excluded.last) < 1000000 THEN l.last || excluded.last ELSE l.last END;
    IF NEW.status <> OLD.status THEN
        UPDATE run_latest SET rows = (SELECT count(*) FROM metrics m WHERE m.run_id = NEW.id) WHERE run_id = NEW.id;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION note_latest IS 'Trigger: the latest values of a run that SQL or a client of SQLTrack made';
-- A trigger needs no right to fire, but one to be made: on a temporary table of anybody's, say.
REVOKE EXECUTE ON FUNCTION note_latest FROM PUBLIC;
CREATE TRIGGER note_latest AFTER UPDATE OF status, time_updated ON runs
    FOR EACH ROW WHEN (NEW.kind = 'client'
                       AND (NEW.status <> OLD.status OR NEW.time_updated IS DISTINCT FROM OLD.time_updated))
    EXECUTE FUNCTION note_latest();

CREATE TABLE run_keys (
    submission uuid PRIMARY KEY REFERENCES submissions ON DELETE CASCADE,
    secret     bytea NOT NULL
);
COMMENT ON TABLE run_keys IS 'Secrets of submissions: for the collector only';
COMMENT ON COLUMN run_keys.submission IS 'The submission';
COMMENT ON COLUMN run_keys.secret IS '32 random bytes, from which the keys of the runs are made; one more says that they are of the second suite (docs/wire.md)';

-- What this database does not know may have been submitted after the back-up that it was restored from: only what it
-- says that it deleted is deleted. So the journals of that, and nothing else, may go from the spool. Whoever has seen a
-- UUID can register it before its owner does, or again after such a restore, and delete it: it is not the same secret.
CREATE TABLE deletions (
    submission uuid,
    task       integer,
    key        bytea,
    time       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (submission, task, key)
);
COMMENT ON TABLE deletions IS 'Runs with a submission that were deleted: their journals and submission records may go, too';
COMMENT ON COLUMN deletions.submission IS 'Their submission';
COMMENT ON COLUMN deletions.task IS 'Which task of it: the array task id, or -1';
COMMENT ON COLUMN deletions.key IS 'SHA-256 of its secret: who has that knows that it was theirs';
COMMENT ON COLUMN deletions.time IS 'When they were deleted';

CREATE FUNCTION note_deletion() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
BEGIN
    INSERT INTO deletions (submission, task, key)
    SELECT g.submission, g.task, sha256(k.secret)
    FROM gone g JOIN run_keys k ON k.submission = g.submission
    WHERE g.task IS NOT NULL
    ON CONFLICT DO NOTHING;
    DELETE FROM run_keys k
    WHERE k.submission IN (SELECT submission FROM gone)
      AND NOT EXISTS (SELECT FROM runs r WHERE r.submission = k.submission);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION note_deletion IS 'Trigger: a deletion is noted, and a secret goes with the last run of its submission';
REVOKE EXECUTE ON FUNCTION note_deletion FROM PUBLIC;
CREATE TRIGGER note_deletion AFTER DELETE ON runs REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION note_deletion();

-- What changed, for those who act on it: ids only. Who acts asks what is so now. No foreign keys: an event of a deletion
-- outlives its run.
CREATE TABLE events (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id        bigint,
    experiment_id bigint,
    kind          text NOT NULL CHECK (kind IN ('created', 'status', 'ended', 'args', 'tags', 'note', 'moved', 'archived', 'goals',
                                                'deleted')),
    time          timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT of_one CHECK (num_nonnulls(run_id, experiment_id) = 1)
);
COMMENT ON TABLE events IS 'That something changed, a row a change, until somebody has acted on it or a day has passed';
COMMENT ON COLUMN events.id IS 'Number in the order in which they were written; they become visible in another';
COMMENT ON COLUMN events.run_id IS 'The run; NULL for a change of an experiment';
COMMENT ON COLUMN events.experiment_id IS 'The experiment; NULL for a change of a run';
COMMENT ON COLUMN events.kind IS 'What changed. ended: it is over for good, beside its status; moved: into another experiment';
COMMENT ON COLUMN events.time IS 'When';

-- Anybody who can connect may listen, and may fill the queue of notifications, which all databases of a server share, by
-- listening and never reading: then a transaction that notifies can't be committed. So half of the queue is left alone:
-- nobody depends on being told, whoever listens looks by himself from time to time.
CREATE FUNCTION announce(channel text) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    IF pg_notification_queue_usage() < 0.5 THEN
        PERFORM pg_notify(channel, '');
    END IF;
END $$;
COMMENT ON FUNCTION announce IS
    'Tell those who listen, when the transaction is committed, that something changed; the channel has the schema''s name';
REVOKE EXECUTE ON FUNCTION announce FROM PUBLIC;

CREATE FUNCTION note_event() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
BEGIN
    IF TG_LEVEL = 'STATEMENT' THEN
        INSERT INTO events (run_id, kind) SELECT id, TG_ARGV[0] FROM changed;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
    ELSIF TG_TABLE_NAME = 'runs' THEN
        INSERT INTO events (run_id, kind) VALUES (NEW.id, TG_ARGV[0]);
    ELSE
        INSERT INTO events (experiment_id, kind) VALUES (NEW.id, TG_ARGV[0]);
    END IF;
    PERFORM announce(TG_TABLE_SCHEMA);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION note_event IS 'Trigger: that a run or an experiment changed; the argument is the kind of the event';
REVOKE EXECUTE ON FUNCTION note_event FROM PUBLIC;
CREATE TRIGGER event_created AFTER INSERT ON runs REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION note_event('created');
CREATE TRIGGER event_deleted AFTER DELETE ON runs REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION note_event('deleted');
CREATE TRIGGER event_status AFTER UPDATE OF status ON runs
    FOR EACH ROW WHEN (NEW.status <> OLD.status) EXECUTE FUNCTION note_event('status');
CREATE TRIGGER event_ended AFTER UPDATE OF status, time_ended ON runs
    FOR EACH ROW WHEN (NEW.time_ended IS NOT NULL AND OLD.time_ended IS NULL) EXECUTE FUNCTION note_event('ended');
CREATE TRIGGER event_args AFTER UPDATE OF args ON runs
    FOR EACH ROW WHEN (NEW.args IS DISTINCT FROM OLD.args) EXECUTE FUNCTION note_event('args');
CREATE TRIGGER event_tags AFTER UPDATE OF tags ON runs
    FOR EACH ROW WHEN (NEW.tags IS DISTINCT FROM OLD.tags) EXECUTE FUNCTION note_event('tags');
CREATE TRIGGER event_note AFTER UPDATE OF comment ON runs
    FOR EACH ROW WHEN (NEW.comment IS DISTINCT FROM OLD.comment) EXECUTE FUNCTION note_event('note');
CREATE TRIGGER event_moved AFTER UPDATE OF experiment_id ON runs
    FOR EACH ROW WHEN (NEW.experiment_id <> OLD.experiment_id) EXECUTE FUNCTION note_event('moved');
CREATE TRIGGER event_archived AFTER UPDATE OF archived ON runs
    FOR EACH ROW WHEN (NEW.archived <> OLD.archived) EXECUTE FUNCTION note_event('archived');
CREATE TRIGGER event_goals AFTER UPDATE OF goals ON experiments
    FOR EACH ROW WHEN (NEW.goals <> OLD.goals) EXECUTE FUNCTION note_event('goals');
CREATE TRIGGER event_archived AFTER UPDATE OF archived ON experiments
    FOR EACH ROW WHEN (NEW.archived <> OLD.archived) EXECUTE FUNCTION note_event('archived');

CREATE TABLE collectors (
    id        uuid PRIMARY KEY,
    host      text NOT NULL,
    pid       integer NOT NULL,
    addresses text[] NOT NULL,
    started   timestamptz NOT NULL DEFAULT current_timestamp,
    heartbeat timestamptz NOT NULL DEFAULT current_timestamp,
    lease     timestamptz,
    stats     jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE collectors IS 'Collectors and what they are doing';
COMMENT ON COLUMN collectors.id IS 'Made by the collector when it starts';
COMMENT ON COLUMN collectors.host IS 'Host that it runs on';
COMMENT ON COLUMN collectors.pid IS 'Its process id there';
COMMENT ON COLUMN collectors.addresses IS 'Where it receives datagrams, as in the setting collector';
COMMENT ON COLUMN collectors.started IS 'When it started';
COMMENT ON COLUMN collectors.heartbeat IS 'When it last said that it lives';
COMMENT ON COLUMN collectors.lease IS 'Until when this collector is the one that reconciles with Slurm; NULL if it never was';
COMMENT ON COLUMN collectors.stats IS 'Object: what it counted since it started';

CREATE TABLE clusters (
    name              text PRIMARY KEY,
    time_checked      timestamptz,
    unreachable_since timestamptz,
    error             text,
    members_checked   timestamptz,
    members_error     text
);
COMMENT ON TABLE clusters IS 'What the reconciler knows about each Slurm cluster';
COMMENT ON COLUMN clusters.name IS 'Slurm''s ClusterName';
COMMENT ON COLUMN clusters.time_checked IS 'When Slurm last answered everything';
COMMENT ON COLUMN clusters.unreachable_since IS 'Since when Slurm has not answered; nothing is concluded meanwhile';
COMMENT ON COLUMN clusters.error IS 'Why it did not answer';
COMMENT ON COLUMN clusters.members_checked IS 'When members was last brought up to date; NULL if never';
COMMENT ON COLUMN clusters.members_error IS 'Why it could not be since; members stays as it was';

CREATE TABLE site (
    name  text PRIMARY KEY,
    value text NOT NULL
);
COMMENT ON TABLE site IS
    'Choices of the site: who sees runs (runs_visible), and their details (details_visible): own, account or all; hpctrack setup sets them';
COMMENT ON COLUMN site.name IS 'Name of the choice';
COMMENT ON COLUMN site.value IS 'What was chosen';

-- Who may see and change what. Rights come from hpctrack setup --grant-...; the policies say of which rows. Rows
-- belong to whoever logged in (session_user): no SET ROLE makes them somebody else's. The owner of the schema, the
-- only user in the personal mode, is not restricted.

CREATE FUNCTION acts_for_all() RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN pg_has_role(session_user, (SELECT relowner FROM pg_class WHERE oid = 'run_keys'::regclass), 'USAGE')
        OR (has_table_privilege(session_user, 'run_keys'::regclass, 'SELECT')
            AND (SELECT rolbypassrls FROM pg_roles WHERE rolname = session_user));
COMMENT ON FUNCTION acts_for_all IS 'Whether whoever is logged in is the schema''s owner or a collector';

CREATE TABLE members (
    account   text,
    user_name text NOT NULL,
    role      text NOT NULL CHECK (role IN ('member', 'coordinator', 'operator')),
    CONSTRAINT operators_of_all CHECK ((account IS NULL) = (role = 'operator')),
    CONSTRAINT fitting_texts CHECK (octet_length(account) <= 255 AND octet_length(user_name) <= 255),
    UNIQUE NULLS NOT DISTINCT (user_name, account)
);
COMMENT ON TABLE members IS
    'Who belongs to which account, as Slurm''s accounting or Unix groups tell; collectors renew it. Each login sees its own rows';
COMMENT ON COLUMN members.account IS 'Slurm''s account; NULL for operators, who see the runs of all accounts';
COMMENT ON COLUMN members.user_name IS 'PostgreSQL login, the same text as Slurm''s user name';
COMMENT ON COLUMN members.role IS
    'member: sees runs as the site says; coordinator: sees all of the account''s runs with their details; operator: of everybody';

CREATE TABLE shares (
    owner         text NOT NULL DEFAULT session_user,
    run_id        bigint REFERENCES runs ON DELETE CASCADE,
    experiment_id bigint REFERENCES experiments ON DELETE CASCADE,
    user_name     text,
    account       text,
    time          timestamptz NOT NULL DEFAULT current_timestamp,
    CONSTRAINT a_run_or_an_experiment CHECK (num_nonnulls(run_id, experiment_id) = 1),
    CONSTRAINT a_user_or_an_account CHECK (num_nonnulls(user_name, account) = 1),
    CONSTRAINT plain_times CHECK (is_plain(time)),
    CONSTRAINT fitting_texts CHECK (octet_length(owner) <= 255 AND octet_length(user_name) BETWEEN 1 AND 255
                                    AND octet_length(account) BETWEEN 1 AND 255)
);
CREATE UNIQUE INDEX shares_run ON shares (run_id, user_name, account) NULLS NOT DISTINCT WHERE run_id IS NOT NULL;
CREATE UNIQUE INDEX shares_experiment ON shares (experiment_id, owner, user_name, account) NULLS NOT DISTINCT
    WHERE experiment_id IS NOT NULL;
CREATE INDEX shares_with_user ON shares (user_name, owner) WHERE user_name IS NOT NULL;
CREATE INDEX shares_with_account ON shares (account, owner) WHERE account IS NOT NULL;
COMMENT ON TABLE shares IS 'Runs that their owners show, with their details, to whoever would not see them otherwise (hpctrack share)';
COMMENT ON COLUMN shares.owner IS 'Whose runs: nobody shares anybody else''s';
COMMENT ON COLUMN shares.run_id IS 'The run; NULL where all of the owner''s in an experiment are meant';
COMMENT ON COLUMN shares.experiment_id IS 'The experiment of which all of the owner''s runs are meant, later ones too; NULL for one run';
COMMENT ON COLUMN shares.user_name IS 'PostgreSQL login that they are shown to; NULL for an account';
COMMENT ON COLUMN shares.account IS 'Account to whose members they are shown; NULL for a login';
COMMENT ON COLUMN shares.time IS 'Since when';

-- Apart from experiments, whose rows policies could not ask here: those ask the runs, whose policies ask this.
CREATE TABLE experiment_scopes (
    experiment_id bigint PRIMARY KEY REFERENCES experiments ON DELETE CASCADE,
    visible       text NOT NULL CHECK (visible IN ('own', 'account'))
);
COMMENT ON TABLE experiment_scopes IS 'Experiments whose runs fewer may see than the site says';
COMMENT ON COLUMN experiment_scopes.experiment_id IS 'The experiment';
COMMENT ON COLUMN experiment_scopes.visible IS 'Who may see its runs at most: own or account, as runs.visible';

-- What policies ask about whoever is logged in, once in a query. Each tells that login only of itself: they may look at
-- all rows, and policies of these tables would make every plan many times as large.
CREATE FUNCTION site_choice(choice text) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    RETURN coalesce((SELECT s.value FROM site s WHERE s.name = choice),
                    CASE choice WHEN 'runs_visible' THEN 'account' WHEN 'details_visible' THEN 'own' END);
COMMENT ON FUNCTION site_choice IS 'What the site chose, or the default: runs_visible, details_visible';

CREATE FUNCTION sees_all() RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    RETURN acts_for_all() OR EXISTS (SELECT FROM members m WHERE m.user_name = session_user AND m.role = 'operator');
COMMENT ON FUNCTION sees_all IS 'Whether whoever is logged in sees everybody''s runs with their details: schema''s owner, collector, operator';

CREATE FUNCTION coordinated_accounts() RETURNS text[]
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    RETURN ARRAY(SELECT m.account FROM members m WHERE m.user_name = session_user AND m.role = 'coordinator');
COMMENT ON FUNCTION coordinated_accounts IS 'Accounts that whoever is logged in coordinates';

CREATE FUNCTION my_accounts() RETURNS text[]
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    RETURN ARRAY(SELECT m.account FROM members m WHERE m.user_name = session_user AND m.account IS NOT NULL);
COMMENT ON FUNCTION my_accounts IS 'Accounts of whoever is logged in';

CREATE FUNCTION accounts_shown(choice text) RETURNS text[]
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    RETURN CASE WHEN site_choice(choice) = 'own' THEN '{}' ELSE my_accounts() END;
COMMENT ON FUNCTION accounts_shown IS 'Accounts whose runs the site shows to whoever is logged in, by one of its choices';

CREATE FUNCTION is_shown_any() RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    RETURN EXISTS (SELECT FROM shares s WHERE s.user_name = session_user)
        OR EXISTS (SELECT FROM shares s WHERE s.account = ANY (my_accounts()));
COMMENT ON FUNCTION is_shown_any IS 'Whether anybody shares runs with whoever is logged in';

CREATE FUNCTION is_any_narrowed() RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    RETURN EXISTS (SELECT FROM experiment_scopes);
COMMENT ON FUNCTION is_any_narrowed IS 'Whether any experiment is for fewer than the site says';

CREATE FUNCTION sees_every_run() RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    RETURN sees_all() OR site_choice('runs_visible') = 'all' AND NOT is_any_narrowed()
                         AND NOT EXISTS (SELECT FROM runs r WHERE r.visible IN ('own', 'account'));
COMMENT ON FUNCTION sees_every_run IS 'Whether there is no run that whoever is logged in may not see: then no row need be looked at';

-- A function, because policies of submissions ask the runs.
CREATE FUNCTION is_own_submission(uuid uuid) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    RETURN EXISTS (SELECT FROM submissions s WHERE s.uuid = is_own_submission.uuid AND s.user_name = session_user);
COMMENT ON FUNCTION is_own_submission IS 'Whether whoever is logged in handed it in';

-- Lists look through the newest runs first, however few of them are for whoever asks.
CREATE FUNCTION nth_newest_run(n integer, before bigint) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    RETURN (SELECT r.id FROM runs r WHERE r.id < coalesce(before, 2147483648) ORDER BY r.id DESC OFFSET n LIMIT 1);
COMMENT ON FUNCTION nth_newest_run IS 'Id of the run before which n newer ones were made, and before a run; NULL if there are not so many';

CREATE VIEW shares_with_me WITH (security_barrier = true) AS
SELECT s.owner, s.run_id, s.experiment_id FROM shares s
WHERE s.user_name = session_user OR s.account = ANY ((SELECT my_accounts())::text[]);
COMMENT ON VIEW shares_with_me IS 'What others share with whoever is logged in';
COMMENT ON COLUMN shares_with_me.owner IS 'Whose runs';
COMMENT ON COLUMN shares_with_me.run_id IS 'The run; NULL where all of the owner''s in an experiment are meant';
COMMENT ON COLUMN shares_with_me.experiment_id IS 'The experiment; NULL for one run';

ALTER TABLE members ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON members FOR SELECT USING (user_name = session_user OR (SELECT acts_for_all()));

ALTER TABLE shares ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON shares FOR SELECT USING (
    owner = session_user OR user_name = session_user OR account = ANY ((SELECT my_accounts())::text[])
    OR (SELECT acts_for_all()));
CREATE POLICY own_insert ON shares FOR INSERT WITH CHECK (
    owner = session_user
    AND (run_id IS NULL OR EXISTS (SELECT FROM runs r WHERE r.id = run_id AND r.user_name = session_user))
    AND (experiment_id IS NULL OR EXISTS (SELECT FROM experiments e WHERE e.id = experiment_id)));
CREATE POLICY own_delete ON shares FOR DELETE USING (owner = session_user);

-- Everybody's queries ask the shares with them.
CREATE FUNCTION refuse_more_shares() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    IF (SELECT count(*) FROM (SELECT FROM shares s WHERE s.owner = NEW.owner AND s.user_name = NEW.user_name
                              UNION ALL SELECT FROM shares s WHERE s.owner = NEW.owner AND s.account = NEW.account
                              LIMIT 1000) found) = 1000 THEN
        RAISE EXCEPTION '% shares 1000 things with % already: share an experiment as a whole', NEW.owner,
            coalesce(NEW.user_name, 'account ' || NEW.account) USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION refuse_more_shares IS 'Trigger: bounds what one owner shares with one user or account';
CREATE TRIGGER refuse_more BEFORE INSERT ON shares FOR EACH ROW EXECUTE FUNCTION refuse_more_shares();

ALTER TABLE experiment_scopes ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON experiment_scopes FOR SELECT USING (true);
-- Not FOR ALL, which would hold for SELECT, too, and ask the experiments that ask this.
CREATE POLICY own_insert ON experiment_scopes FOR INSERT WITH CHECK (
    EXISTS (SELECT FROM experiments e WHERE e.id = experiment_id AND e.user_name = session_user));
CREATE POLICY own_update ON experiment_scopes FOR UPDATE USING (
    EXISTS (SELECT FROM experiments e WHERE e.id = experiment_id AND e.user_name = session_user));
CREATE POLICY own_delete ON experiment_scopes FOR DELETE USING (
    EXISTS (SELECT FROM experiments e WHERE e.id = experiment_id AND e.user_name = session_user));

-- Policies hide rows, and no columns. So rows without details have a table of their own above the table that holds
-- them: PostgreSQL reads a table by the policies of the one that is asked, those of the tables below do not count.
-- Whoever may see a run finds it in run_facts; whoever may see its arguments and environment, too, in runs.
CREATE TABLE run_facts (LIKE runs);
ALTER TABLE run_facts DROP COLUMN args, DROP COLUMN env, ADD CONSTRAINT no_rows_of_its_own CHECK (false) NO INHERIT;
ALTER TABLE runs INHERIT run_facts;
COMMENT ON TABLE run_facts IS 'The rows of runs without what only few may see (args, env): everything of runs that whoever is logged in may see';
CREATE TABLE attempt_facts (LIKE attempts);
ALTER TABLE attempt_facts DROP COLUMN stderr_tail, ADD CONSTRAINT no_rows_of_its_own CHECK (false) NO INHERIT;
ALTER TABLE attempts INHERIT attempt_facts;
COMMENT ON TABLE attempt_facts IS 'The rows of attempts without standard error';

-- The owner; operators, coordinators; whom the site shows it to, unless the run or its experiment is narrower; whom its
-- owner shows it to. A subquery that does not ask the row is worked out once in a query. visible_runs has the ids for
-- policies of other tables, which find a run by its id; it shows rows by its own condition, and no others (security_barrier).
DO $$
DECLARE
    sight record;
    seen text;
BEGIN
    FOR sight IN SELECT * FROM (VALUES ('run_facts', 'runs_visible'), ('runs', 'details_visible')) AS v (asked, choice) LOOP
        seen := format($policy$
                user_name = session_user
                OR (SELECT sees_all())
                OR account = ANY ((SELECT coordinated_accounts())::text[])
                OR (account = ANY ((SELECT accounts_shown(%1$L))::text[])
                    OR (SELECT site_choice(%1$L) = 'all') AND visible IS DISTINCT FROM 'account'
                       AND (NOT (SELECT is_any_narrowed())
                            OR NOT EXISTS (SELECT FROM experiment_scopes s WHERE s.experiment_id = %2$I.experiment_id)))
                   AND visible IS DISTINCT FROM 'own'
                   AND (NOT (SELECT is_any_narrowed())
                        OR NOT EXISTS (SELECT FROM experiment_scopes s
                                       WHERE s.experiment_id = %2$I.experiment_id AND s.visible = 'own'))
                OR (SELECT is_shown_any())
                   AND (EXISTS (SELECT FROM shares_with_me s WHERE s.run_id = %2$I.id AND s.owner = %2$I.user_name)
                        OR EXISTS (SELECT FROM shares_with_me s
                                   WHERE s.experiment_id = %2$I.experiment_id AND s.owner = %2$I.user_name))
            $policy$, sight.choice, sight.asked);
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', sight.asked);
        EXECUTE format('CREATE POLICY visible ON %I FOR SELECT USING (%s)', sight.asked, seen);
        IF sight.asked = 'run_facts' THEN
            EXECUTE format('CREATE VIEW visible_runs WITH (security_barrier = true) AS SELECT id FROM runs run_facts WHERE %s', seen);
        END IF;
    END LOOP;
END $$;
COMMENT ON VIEW visible_runs IS 'The runs that whoever is logged in may see, by their ids alone';
COMMENT ON COLUMN visible_runs.id IS 'The run''s id';

CREATE VIEW visible_experiments WITH (security_barrier = true) AS
SELECT e.id
FROM experiments e
LEFT JOIN experiment_scopes n ON n.experiment_id = e.id
WHERE e.user_name = session_user OR e.name = 'default' OR (SELECT sees_all())
   OR (SELECT site_choice('runs_visible') = 'all') AND n.visible IS NULL
   -- OFFSET: looked up by the index for each experiment, never in all runs at once.
   OR EXISTS (SELECT FROM runs r WHERE r.experiment_id = e.id AND r.user_name = session_user OFFSET 0)
   OR (SELECT coordinated_accounts() <> '{}')
      AND EXISTS (SELECT FROM runs r WHERE r.experiment_id = e.id
                  AND r.account = ANY ((SELECT coordinated_accounts())::text[]) OFFSET 0)
   OR (SELECT accounts_shown('runs_visible') <> '{}') AND n.visible IS DISTINCT FROM 'own'
      AND EXISTS (SELECT FROM runs r WHERE r.experiment_id = e.id AND r.visible IS DISTINCT FROM 'own'
                  AND r.account = ANY ((SELECT accounts_shown('runs_visible'))::text[]) OFFSET 0)
   OR (SELECT site_choice('runs_visible') = 'all') AND n.visible IS DISTINCT FROM 'own'
      AND EXISTS (SELECT FROM runs r WHERE r.experiment_id = e.id AND r.id IN (SELECT v.id FROM visible_runs v) OFFSET 0)
   OR (SELECT is_shown_any())
      AND (EXISTS (SELECT FROM shares_with_me s WHERE s.experiment_id = e.id
                   AND EXISTS (SELECT FROM runs r WHERE r.experiment_id = e.id AND r.user_name = s.owner OFFSET 0))
           OR EXISTS (SELECT FROM shares_with_me s JOIN runs r ON r.id = s.run_id AND r.user_name = s.owner
                      WHERE r.experiment_id = e.id OFFSET 0));
COMMENT ON VIEW visible_experiments IS 'The experiments that whoever is logged in may see, by their ids alone';
COMMENT ON COLUMN visible_experiments.id IS 'The experiment''s id';

-- Who names an experiment by its id must see it: what is in it is seen by whoever has a run there.
CREATE POLICY own_insert ON runs FOR INSERT WITH CHECK (
    user_name = session_user
    AND EXISTS (SELECT FROM visible_experiments v WHERE v.id = experiment_id)
    AND (submission IS NULL OR is_own_submission(submission)));
CREATE POLICY own_update ON runs FOR UPDATE USING (user_name = session_user) WITH CHECK (
    user_name = session_user
    AND EXISTS (SELECT FROM visible_experiments v WHERE v.id = experiment_id)
    AND (submission IS NULL OR is_own_submission(submission)));
CREATE POLICY own_delete ON runs FOR DELETE USING (user_name = session_user);

ALTER TABLE submissions ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON submissions FOR SELECT USING (
    user_name = session_user OR EXISTS (SELECT FROM runs r WHERE r.submission = uuid));
CREATE POLICY own_delete ON submissions FOR DELETE USING (user_name = session_user);

ALTER TABLE experiments ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON experiments FOR SELECT USING (
    user_name = session_user OR EXISTS (SELECT FROM visible_experiments v WHERE v.id = experiments.id OFFSET 0));
CREATE POLICY own_insert ON experiments FOR INSERT WITH CHECK (user_name = session_user);
CREATE POLICY own_update ON experiments FOR UPDATE USING (user_name = session_user) WITH CHECK (user_name = session_user);
CREATE POLICY own_delete ON experiments FOR DELETE USING (user_name = session_user);
-- What everybody shares who names none (register_submission): whoever made it first could hold up all of them.
CREATE POLICY default_is_nobodys_to_make ON experiments AS RESTRICTIVE FOR INSERT WITH CHECK (name <> 'default');
CREATE POLICY default_is_nobodys_to_take ON experiments AS RESTRICTIVE FOR UPDATE USING (true) WITH CHECK (name <> 'default');

-- An experiment takes its runs along, and PostgreSQL does that in the name of the owner of the table.
CREATE FUNCTION refuse_deletion() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
BEGIN
    -- Whose and which is not said: whoever owns the experiment need not see them.
    RAISE EXCEPTION 'runs of other people are in this experiment: only they may delete those'
        USING ERRCODE = 'insufficient_privilege';
END $$;
COMMENT ON FUNCTION refuse_deletion IS 'Trigger: keeps other people''s runs when an experiment is deleted';
CREATE TRIGGER keep_others BEFORE DELETE ON runs
    FOR EACH ROW WHEN (OLD.user_name <> session_user AND NOT acts_for_all())
    EXECUTE FUNCTION refuse_deletion();

-- Links are seen by whoever sees both ends, and made from what is one's own to what one sees.
ALTER TABLE experiment_relationships ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON experiment_relationships FOR SELECT USING (
    EXISTS (SELECT FROM visible_experiments v WHERE v.id = from_id)
    AND EXISTS (SELECT FROM visible_experiments v WHERE v.id = to_id));
ALTER TABLE run_relationships ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON run_relationships FOR SELECT USING (
    (SELECT sees_every_run())
    OR EXISTS (SELECT FROM visible_runs v WHERE v.id = from_id) AND EXISTS (SELECT FROM visible_runs v WHERE v.id = to_id));
DO $$
DECLARE
    link record;
    command text;
BEGIN
    FOR link IN SELECT * FROM (VALUES ('experiment_relationships', 'experiments', 'visible_experiments'),
                                      ('run_relationships', 'runs', 'visible_runs')) AS v (links, owned, seen) LOOP
        FOREACH command IN ARRAY ARRAY['INSERT WITH CHECK', 'UPDATE USING', 'DELETE USING'] LOOP
            EXECUTE format('CREATE POLICY %I ON %I FOR %s (EXISTS (SELECT FROM %I o WHERE o.id = from_id AND o.user_name = session_user)'
                           ' AND EXISTS (SELECT FROM %I s WHERE s.id = to_id))',
                           'own_' || lower(split_part(command, ' ', 1)), link.links, command, link.owned, link.seen);
        END LOOP;
    END LOOP;
END $$;

-- What everybody may see of the runs that they see, and the owner may change (where hpctrack setup grants that).
DO $$
DECLARE
    child text;
    command text;
BEGIN
    FOREACH child IN ARRAY ARRAY['metrics', 'run_latest', 'transitions', 'usage', 'streams', 'attempt_facts', 'series_rows',
                                'run_series', 'run_metrics'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', child);
        EXECUTE format('CREATE POLICY visible ON %1$I FOR SELECT USING '
                       '((SELECT sees_every_run()) OR EXISTS (SELECT FROM visible_runs v WHERE v.id = %1$I.run_id))', child);
    END LOOP;
    FOREACH child IN ARRAY ARRAY['metrics', 'run_latest'] LOOP
        FOREACH command IN ARRAY ARRAY['INSERT WITH CHECK', 'UPDATE USING', 'DELETE USING'] LOOP
            EXECUTE format('CREATE POLICY %I ON %I FOR %s (EXISTS '
                           '(SELECT FROM runs r WHERE r.id = run_id AND r.user_name = session_user))',
                           'own_' || lower(split_part(command, ' ', 1)), child, command);
        END LOOP;
    END LOOP;
END $$;
-- What a metric is called may say what its run is for.
ALTER TABLE metric_names ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON metric_names FOR SELECT USING (
    (SELECT sees_every_run()) OR EXISTS (SELECT FROM run_metrics m WHERE m.name_id = metric_names.id));
CREATE POLICY own_insert ON transitions FOR INSERT WITH CHECK (
    source = 'user' AND EXISTS (SELECT FROM runs r WHERE r.id = run_id AND r.user_name = session_user));

-- Standard error, and whatever scripts sent that PostgreSQL refused, may hold anything.
DO $$
DECLARE child text;
BEGIN
    FOREACH child IN ARRAY ARRAY['attempts', 'rejected'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', child);
        EXECUTE format('CREATE POLICY visible ON %1$I FOR SELECT USING '
                       '((SELECT sees_all()) OR EXISTS (SELECT FROM runs r WHERE r.id = %1$I.run_id))', child);
    END LOOP;
END $$;

CREATE POLICY own_insert ON attempts FOR INSERT WITH CHECK (
    EXISTS (SELECT FROM runs r WHERE r.id = run_id AND r.user_name = session_user));
CREATE POLICY own_update ON attempts FOR UPDATE
    USING (EXISTS (SELECT FROM runs r WHERE r.id = run_id AND r.user_name = session_user));

ALTER TABLE run_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE events ENABLE ROW LEVEL SECURITY;

-- Views see what whoever asks may see (security_invoker). What a query does not ask for is not joined: hence the outer
-- joins, also where there is always a row.

CREATE VIEW run_overview WITH (security_invoker = true) AS
SELECT r.id, r.experiment_id, e.name AS experiment, r.status, r.time_created, r.time_started, r.time_updated,
       r.time_ended, r.time_seen, r.comment, r.tags, d.args, d.env,
       r.submission, r.task, r.user_name, r.cluster, r.slurm_job_id, r.array_job_id, r.array_task_id, r.het_job_id,
       r.job_name, r.partition, r.account, r.qos, r.time_limit, r.stdout_path, r.stderr_path, r.attempt,
       r.exit_code, r.exit_signal, r.reason, r.node_list, r.slurm_state, r.kind, r.archived, r.missing_since,
       r.time_stopped, r.suspended, r.sluid, r.visible,
       CASE WHEN r.time_ended IS NOT NULL THEN NULL
            WHEN r.kind = 'command' AND r.cluster IS NULL AND r.submission IS NOT NULL
            THEN (SELECT h.heard FROM (SELECT greatest(r.time_seen, r.time_started, max(s.time_last)) AS heard
                                       FROM streams s WHERE s.run_id = r.id) h
                  WHERE h.heard < now() - interval '2 minutes')
            -- Its program says nothing between two rows of metrics.
            WHEN r.kind = 'client' AND r.status = 'RUNNING'
                 AND greatest(r.time_updated, r.time_started, l.last_time) < now() - interval '10 minutes'
            THEN greatest(r.time_updated, r.time_started, l.last_time) END AS silent_since,
       l.last_step, l.last_time, l.last, coalesce(l.rows, 0) AS rows, coalesce(l.lost, 0) AS lost,
       coalesce(l.waiting, 0) AS waiting
FROM run_facts r
LEFT JOIN experiments e ON e.id = r.experiment_id
LEFT JOIN run_latest l ON l.run_id = r.id
LEFT JOIN runs d ON d.id = r.id;
COMMENT ON VIEW run_overview IS 'Runs with their experiment and latest values; what hpctrack status lists';
COMMENT ON COLUMN run_overview.experiment IS 'Name of the experiment';
COMMENT ON COLUMN run_overview.silent_since IS
    'When a client''s run, or a command outside Slurm, that is not over was last heard of, if that is some minutes ago';

CREATE VIEW attempt_overview WITH (security_invoker = true) AS
SELECT a.run_id, a.attempt, a.slurm_job_id, a.status, a.time_submitted, a.time_started, a.time_ended, a.exit_code,
       a.exit_signal, a.slurm_exit_code, a.slurm_exit_signal, a.node_list, a.batch_host, a.reason, d.stderr_tail,
       a.resources
FROM attempt_facts a
LEFT JOIN attempts d ON d.run_id = a.run_id AND d.attempt = a.attempt;
COMMENT ON VIEW attempt_overview IS 'Executions of runs';

CREATE VIEW attempt_resources WITH (security_invoker = true) AS
SELECT a.run_id, a.attempt,
       coalesce(metric_number(a.resources -> 'elapsed_s'),
                extract(epoch FROM CASE WHEN a.attempt = r.attempt
                                        THEN coalesce(a.time_ended, r.time_stopped, now()) - a.time_started - r.suspended
                                        ELSE coalesce(a.time_ended, now()) - a.time_started END)::double precision) AS elapsed_s,
       nullif(least(coalesce(count_number(coalesce(a.resources -> 'alloc_tres', a.resources -> 'req_tres') -> 'cpu'), -1),
                    2147483647), -1)::integer AS cpus,
       coalesce(metric_number(a.resources -> 'cpu_s'), u.cpu_s) AS cpu_s,
       count_number(coalesce(a.resources -> 'req_tres', a.resources -> 'alloc_tres') -> 'mem') AS memory_requested_bytes,
       greatest(count_number(a.resources -> 'max_rss_bytes'), u.memory_bytes) AS memory_used_bytes,
       least(coalesce(count_number(coalesce(a.resources -> 'alloc_tres', a.resources -> 'req_tres') -> 'gres/gpu'), 0),
             2147483647)::integer AS gpus
FROM attempt_facts a
JOIN run_facts r ON r.id = a.run_id
CROSS JOIN LATERAL (
    SELECT sum(n.cpu_s) AS cpu_s, nullif(least(coalesce(sum(n.memory_bytes), -1), 9223372036854775807), -1)::bigint AS memory_bytes
    FROM (SELECT max(s.cpu_s) AS cpu_s, max(greatest(s.memory_peak_bytes, s.memory_bytes)) AS memory_bytes
          FROM usage s WHERE s.run_id = a.run_id AND s.attempt = a.attempt GROUP BY s.node) n) u;
COMMENT ON VIEW attempt_resources IS 'What attempts asked for and what they used, by Slurm''s accounting and our own samples';
COMMENT ON COLUMN attempt_resources.elapsed_s IS 'Seconds from its start to its end, or to now, but for those suspended';
COMMENT ON COLUMN attempt_resources.cpus IS 'Processors that Slurm gave it';
COMMENT ON COLUMN attempt_resources.cpu_s IS 'Processor seconds that it used on all nodes';
COMMENT ON COLUMN attempt_resources.memory_requested_bytes IS 'Memory that it asked for, on all nodes together';
COMMENT ON COLUMN attempt_resources.memory_used_bytes IS
    'Most memory that it was seen to use: the greater of accounting''s MaxRSS (of one task) and our samples (all nodes together)';
COMMENT ON COLUMN attempt_resources.gpus IS 'GPUs that Slurm gave it';


CREATE VIEW jobs WITH (security_invoker = true) AS
SELECT o.id AS run_id,
       CASE WHEN o.array_task_id IS NULL THEN o.slurm_job_id::text
            ELSE o.array_job_id || '_' || o.array_task_id END AS job_id,
       o.job_name, o.experiment, o.user_name, o.account, o.partition, o.qos, o.cluster, o.status AS state,
       o.attempt AS restarts, o.time_created AS submitted, o.time_started AS started, o.time_ended AS ended,
       coalesce(o.time_ended, o.time_stopped, CASE WHEN o.time_started IS NOT NULL THEN now() END)
           - o.time_started - o.suspended AS elapsed,
       o.time_limit, o.node_list, o.exit_code, o.exit_signal, o.reason, o.last_step, o.last_time, o.last, o.lost,
       o.archived
FROM run_overview o;
COMMENT ON VIEW jobs IS 'Runs in sacct''s words, with their latest metrics';
COMMENT ON COLUMN jobs.run_id IS 'The run''s own id, written r7';
COMMENT ON COLUMN jobs.job_id IS 'Slurm''s id as its commands write it: 14, or 14_3 for a task of an array; NULL outside Slurm';
COMMENT ON COLUMN jobs.experiment IS 'Name of the experiment';
COMMENT ON COLUMN jobs.state IS 'Slurm''s latest verdict';
COMMENT ON COLUMN jobs.restarts IS 'How often it was started again, after a requeue or a preemption';
COMMENT ON COLUMN jobs.submitted IS 'When it was submitted';
COMMENT ON COLUMN jobs.started IS 'When it started, the latest time';
COMMENT ON COLUMN jobs.ended IS 'When it was over for good; NULL while it may still change';
COMMENT ON COLUMN jobs.elapsed IS 'From its latest start to its end, or to now';

CREATE VIEW metric_values WITH (security_invoker = true) AS
SELECT m.run_id, m.step, m.progress, m.time, m.attempt, v.name, v.value, v.text
FROM metrics m
CROSS JOIN LATERAL (
    SELECT c.key AS name,
           CASE WHEN c.value IN ('"NaN"', '"Infinity"', '"-Infinity"') THEN (c.value #>> '{}')::double precision
                ELSE metric_number(c.value) END AS value,
           c.value #>> '{}' AS text
    FROM jsonb_each(to_jsonb(m.*) - '{run_id,step,progress,time,attempt,extra,numbered}'::text[]) c
    WHERE c.value <> 'null'
    UNION ALL
    SELECT e.key, metric_number(e.value), coalesce(e.value ->> 'float', e.value ->> 'int', e.value #>> '{}')
    FROM jsonb_each(m.extra) e) v;
COMMENT ON VIEW metric_values IS 'Metrics with one value a row, whether they have a column or not; for some runs at a time';
COMMENT ON COLUMN metric_values.name IS 'Name of the metric';
COMMENT ON COLUMN metric_values.value IS 'Its value as a number; NULL where it is none';
COMMENT ON COLUMN metric_values.text IS 'Its value as text';

CREATE VIEW metric_summary WITH (security_invoker = true) AS
SELECT m.run_id, n.name, m.count, m.nans, m.first, m.first_step, m.last, m.last_step, m.min, m.min_step, m.max, m.max_step
FROM run_metrics m
JOIN metric_names n ON n.id = m.name_id
UNION ALL
SELECT l.run_id, s.key, m.count, m.nans, m.first, m.first_step, m.last, m.last_step, m.min, m.min_step, m.max, m.max_step
FROM run_latest l
CROSS JOIN LATERAL jsonb_each(l.stats) s
CROSS JOIN LATERAL statistics_of(s.value) m
WHERE NOT l.settled;
COMMENT ON VIEW metric_summary IS
    'Each metric of a run in one row: its first, last, least and greatest value. Of runs that go on a few seconds old';
COMMENT ON COLUMN metric_summary.run_id IS 'The run';
COMMENT ON COLUMN metric_summary.name IS 'Name of the metric';
COMMENT ON COLUMN metric_summary.count IS 'How many values there are; rows that a later attempt superseded do not count';
COMMENT ON COLUMN metric_summary.nans IS 'How many of them are NaN';
COMMENT ON COLUMN metric_summary.first IS 'Value at the first step that has one';
COMMENT ON COLUMN metric_summary.first_step IS 'That step';
COMMENT ON COLUMN metric_summary.last IS 'Value at the last step that has one';
COMMENT ON COLUMN metric_summary.last_step IS 'That step';
COMMENT ON COLUMN metric_summary.min IS 'Least value, apart from NaN';
COMMENT ON COLUMN metric_summary.min_step IS 'First step with the least value';
COMMENT ON COLUMN metric_summary.max IS 'Greatest value, apart from NaN';
COMMENT ON COLUMN metric_summary.max_step IS 'First step with the greatest value';

-- Columns that a view, a leaf, or a table over another hands through are explained like those of the table.
DO $$
DECLARE c record;
BEGIN
    FOR c IN
        SELECT v.relname AS view, va.attname AS name, d.description
        FROM (VALUES ('run_links', 'run_relationships', 1), ('experiment_links', 'experiment_relationships', 1),
                     ('run_facts', 'runs', 1), ('attempt_facts', 'attempts', 1),
                     ('run_overview', 'runs', 1), ('run_overview', 'run_latest', 2),
                     ('attempt_overview', 'attempts', 1), ('attempt_resources', 'attempts', 1),
                     ('jobs', 'runs', 1), ('jobs', 'run_latest', 2), ('metric_values', 'metrics', 1),
                     ('metrics_leaf_1', 'metrics', 1)) AS pair (view, base, rank)
        JOIN pg_class v ON v.oid = pair.view::regclass
        JOIN pg_attribute va ON va.attrelid = v.oid AND col_description(v.oid, va.attnum) IS NULL
        JOIN pg_attribute ba ON ba.attrelid = pair.base::regclass AND ba.attname = va.attname
        JOIN pg_description d ON d.objoid = ba.attrelid AND d.objsubid = ba.attnum AND d.classoid = 'pg_class'::regclass
        ORDER BY pair.rank DESC
    LOOP
        EXECUTE format('COMMENT ON COLUMN %I.%I IS %L', c.view, c.name, c.description);
    END LOOP;
END $$;

CREATE FUNCTION register_submission(submission jsonb, secret bytea, run jsonb, tasks integer[])
    RETURNS TABLE (task integer, run_id bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    -- Only the schema's owner (the personal mode, an administrator) and a collector, which registers what waits in
    -- the spool, may say whose runs these are.
    trusted boolean := acts_for_all();
    who text := CASE WHEN trusted THEN coalesce(submission->>'user_name', session_user) ELSE session_user END;
    slurm_user text := coalesce(submission->>'user_name', who);
    the_uuid uuid := (submission->>'uuid')::uuid;
    -- Nothing is registered before it was submitted, whatever the submitter's clock or word.
    submitted timestamptz := least((submission->>'time')::timestamptz, now());
    the_experiment bigint;
    parent bigint;
    original bigint;
    known text;
BEGIN
    -- Slurm's user names and PostgreSQL's need not be the same, but whoever has a login here speaks for themselves.
    IF NOT trusted AND slurm_user <> session_user AND EXISTS (SELECT FROM pg_roles WHERE rolname = slurm_user) THEN
        RAISE EXCEPTION 'submission % is %''s, but this login is %', the_uuid, slurm_user, session_user
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    INSERT INTO submissions (uuid, user_name, slurm_user, cluster, time, submit_line, script, script_path, script_sha256,
                             work_dir, git, env)
    VALUES (the_uuid, who, slurm_user, submission->>'cluster', submitted,
            submission->>'submit_line', submission->>'script', submission->>'script_path', submission->>'script_sha256',
            submission->>'work_dir', submission->'git', submission->'env')
    ON CONFLICT DO NOTHING;
    SELECT s.user_name INTO known FROM submissions s WHERE s.uuid = the_uuid;
    IF known IS DISTINCT FROM who THEN
        RAISE EXCEPTION 'submission % belongs to %', the_uuid, known USING ERRCODE = 'insufficient_privilege';
    END IF;
    INSERT INTO run_keys (submission, secret) VALUES (the_uuid, secret) ON CONFLICT DO NOTHING;
    -- To try whether collectors answer under this key: a run would take an id for that.
    IF cardinality(tasks) = 0 THEN
        PERFORM announce(current_schema());  -- of runs a trigger tells
        RETURN;
    END IF;

    -- What everybody shares who names none is nobody's to rename: it belongs to the owner of this function.
    -- Looked for first: an attempt to insert takes a number.
    INSERT INTO experiments (name, user_name)
    SELECT run->>'experiment', CASE run->>'experiment' WHEN 'default' THEN current_user ELSE who END
    WHERE NOT EXISTS (SELECT FROM experiments e WHERE e.name = run->>'experiment')
    ON CONFLICT (name) DO NOTHING;
    -- Waited for before ids are drawn: whoever has to try again would draw them anew each time.
    SELECT e.id INTO the_experiment FROM experiments e WHERE e.name = run->>'experiment' FOR KEY SHARE;
    IF the_experiment IS NULL THEN
        RAISE EXCEPTION 'experiment % was renamed or deleted meanwhile: try again', run->>'experiment'
            USING ERRCODE = 'lock_not_available';
    END IF;

    WITH fresh AS (
        INSERT INTO runs (experiment_id, status, time_created, comment, tags, args, submission, task, user_name, cluster,
                          slurm_job_id, array_job_id, array_task_id, het_job_id, job_name, partition, account, qos,
                          time_limit, kind, time_updated)
        SELECT the_experiment, 'PENDING', submitted, run->>'comment', run->'tags', run->'args', the_uuid,
               t, who, submission->>'cluster', CASE WHEN t < 0 THEN (run->>'job_id')::bigint END,
               CASE WHEN t >= 0 THEN (run->>'job_id')::bigint END, CASE WHEN t >= 0 THEN t END,
               (run->>'het_job_id')::bigint, run->>'job_name', run->>'partition', run->>'account', run->>'qos',
               make_interval(secs => (run->>'time_limit_s')::double precision), coalesce(run->>'kind', 'batch'), now()
        FROM unnest(tasks) AS t
        WHERE NOT EXISTS (SELECT FROM runs r WHERE r.submission = the_uuid AND r.task = t)
        ORDER BY t  -- ids in the order of tasks, whatever the plan
        ON CONFLICT (submission, task) DO NOTHING
        RETURNING id AS new_id
    )
    INSERT INTO transitions (run_id, status, time, source)
    SELECT new_id, 'PENDING', submitted, 'submit' FROM fresh;

    SELECT p.id INTO parent FROM runs p
    WHERE p.submission = (run->>'parent_submission')::uuid AND p.task = (run->>'parent_task')::integer
      AND p.user_name = who;
    IF parent IS NOT NULL THEN
        INSERT INTO run_relationships (from_id, kind, to_id)
        SELECT parent, 'submitted', r.id FROM runs r WHERE r.submission = the_uuid ON CONFLICT DO NOTHING;
    END IF;

    -- A task is a rerun of the task of the same number, or else of the first.
    SELECT min(o.id) INTO original FROM runs o WHERE o.submission = (run->>'rerun_of')::uuid;
    IF original IS NOT NULL THEN
        INSERT INTO run_relationships (from_id, kind, to_id)
        SELECT r.id, 'reruns', coalesce(o.id, original)
        FROM runs r LEFT JOIN runs o ON o.submission = (run->>'rerun_of')::uuid AND o.task = r.task
        WHERE r.submission = the_uuid ON CONFLICT DO NOTHING;
    END IF;
    RETURN QUERY SELECT r.task, r.id FROM runs r WHERE r.submission = the_uuid ORDER BY r.task;
END $$;
COMMENT ON FUNCTION register_submission IS
    'Store a submission, its secret and its runs; calling it again with the same UUID changes nothing';
REVOKE EXECUTE ON FUNCTION register_submission FROM PUBLIC;

CREATE FUNCTION known_runs(submissions uuid[], tasks integer[])
    RETURNS TABLE (submission uuid, task integer, id bigint, attempt integer, over boolean)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $$
    SELECT r.submission, r.task, r.id, r.attempt, coalesce(r.time_ended < now() - interval '2 minutes', false)
    FROM unnest(submissions, tasks) AS w (submission, task)
    JOIN runs r ON r.submission = w.submission AND r.task = w.task;
$$;
COMMENT ON FUNCTION known_runs IS
    'Which runs exist, hidden ones too: a run that row-level security hides is not one that was deleted';
REVOKE EXECUTE ON FUNCTION known_runs FROM PUBLIC;

CREATE FUNCTION add_metric_columns(names text[], comment text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
    name text;
BEGIN
    EXECUTE 'ALTER TABLE metrics ' || (SELECT string_agg(format('ADD COLUMN %I double precision', n), ', ')
                                       FROM unnest(names) AS n);
    FOREACH name IN ARRAY names LOOP
        EXECUTE format('COMMENT ON COLUMN metrics.%I IS %L', name, comment);
    END LOOP;
END $$;
COMMENT ON FUNCTION add_metric_columns IS 'Columns for new metrics, on behalf of a collector that does not own the table';
REVOKE EXECUTE ON FUNCTION add_metric_columns FROM PUBLIC;
