-- What looking at usage needs: an index over the time of all requests, and one-time tickets for live connections.

-- The log of the whole platform is read from its newest end, a short window at a time; the rows lie in the order of their time.
CREATE INDEX usage_logs_time ON usage_logs USING brin (occurred_at) WITH (pages_per_range = 16, autosummarize = on);

-- A ticket is deleted when it is used; it speaks for the session or token that made it, as long as that holds.
CREATE TABLE live_tickets (
    digest          bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    user_id         uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    session_id      uuid REFERENCES sessions ON DELETE CASCADE,
    access_token_id uuid REFERENCES access_tokens ON DELETE CASCADE,
    expires_at      timestamptz NOT NULL,
    CONSTRAINT live_tickets_one_credential CHECK ((session_id IS NULL) <> (access_token_id IS NULL))
);
COMMENT ON COLUMN live_tickets.digest IS 'SHA-256; the ticket itself is shown once and never stored.';
CREATE INDEX live_tickets_user ON live_tickets (user_id);
CREATE INDEX live_tickets_session ON live_tickets (session_id);
CREATE INDEX live_tickets_access_token ON live_tickets (access_token_id);
CREATE INDEX live_tickets_expiry ON live_tickets (expires_at);
