-- What an operator allows one product to hold of each gateway at once, in place of the gateways' own settings.
ALTER TABLE api_products
    ADD COLUMN requests_in_flight_max   integer CHECK (requests_in_flight_max BETWEEN 1 AND 10000000),
    ADD COLUMN upstream_connections_max integer CHECK (upstream_connections_max BETWEEN 1 AND 1000000);
COMMENT ON COLUMN api_products.requests_in_flight_max IS 'On each gateway; null: as many as its settings say. Set by operators alone.';
COMMENT ON COLUMN api_products.upstream_connections_max IS 'On each gateway, idle ones too; null: as many as its settings say.';
