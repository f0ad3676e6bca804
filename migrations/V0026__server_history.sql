-- A server that takes over may lack the last commits: a standby that was promoted, a backup that was restored. It gives their revisions out a
-- second time, and nobody could tell the two apart. So the feed knows whose history its epoch belongs to.

-- The cluster (a restored dump lives in another) and its timeline (a promotion and a recovery to a point in time begin a new one). Of a primary;
-- a standby raises an error.
CREATE FUNCTION server_history() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT format('%s/%s', (SELECT system_identifier FROM pg_control_system()), left(pg_walfile_name(pg_current_wal_lsn()), 8))
$$;

ALTER TABLE feed_state ADD COLUMN history text NOT NULL DEFAULT server_history();
COMMENT ON COLUMN feed_state.history IS 'The server that gave out the revisions of this epoch; another one begins a new epoch.';
COMMENT ON COLUMN feed_state.epoch IS 'Replaced where the database may have lost revisions, so that every gateway asks for everything again.';

-- This database may itself be restored from a backup that is older than this column.
UPDATE feed_state SET epoch = gen_random_uuid();
