-- Whose cancellation a subscription's wanted end is, so that one side does not take back what the other wants; and the way
-- to the ends that have come.

ALTER TABLE subscriptions ADD COLUMN cancelled_by text
    CONSTRAINT subscriptions_cancelled_by_check CHECK (cancelled_by IN ('consumer', 'publisher'));
COMMENT ON COLUMN subscriptions.cancelled_by IS 'The side that asked for cancel_at, or ended it; null where nobody did, or before this was noted.';
CREATE INDEX subscriptions_cancel_at ON subscriptions (cancel_at) WHERE status <> 'cancelled' AND cancel_at IS NOT NULL;
