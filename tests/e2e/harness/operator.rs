//! The operator of a world's installation, as a user of the REST interface.

use apihub::rest::Rest;
use control_plane::bootstrap::ensure_admin;
use settings::Secret;

use super::world::World;

const ADMIN: (&str, &str) = ("root@example.com", "a long enough passphrase");

impl World {
    /// Made at the first call, signed in.
    pub async fn operator(&self) -> Rest {
        let database = control_plane::settings::Database {
            url: Secret::new(self.database_url.clone()),
            ca_file: None,
            pool_size: 2,
            migrate_at_start: false,
        };
        let metrics = control_plane::metrics::Metrics::new().unwrap();
        let store = control_plane::store::Store::new(&database, metrics).unwrap();
        ensure_admin(&store, ADMIN.0, &Secret::new(ADMIN.1)).await.unwrap();
        Rest::sign_in(&self.control_planes[0].url, ADMIN.0, ADMIN.1).await.unwrap()
    }
}
