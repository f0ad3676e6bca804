//! Who is served at which address: `/{organization}/{product}` and hosts of their own, by a 64-bit keyed hash. Claims of
//! several products to one address are settled the same way whatever their order. Knows no routes.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use super::cow::CowMap;
use super::product::ProductEntry;
use crate::id_hash::IdState;

/// Products by the hash of an address. Two claim one only while a change is under way (or when 64 bits collide).
#[derive(Clone)]
pub(super) struct Addresses {
    names: CowMap<u64, Arc<[Arc<ProductEntry>]>, IdState>,
    hosts: CowMap<u64, Arc<[Arc<ProductEntry>]>, IdState>,
    /// Keyed, since publishers choose slugs and hosts.
    hasher: RandomState,
}

impl Addresses {
    pub(super) fn new() -> Addresses {
        Addresses { names: CowMap::new(IdState), hosts: CowMap::new(IdState), hasher: RandomState::new() }
    }

    pub(super) fn add(&mut self, entry: &Arc<ProductEntry>) {
        let name = self.hash_name(&entry.organization_slug, &entry.slug);
        claim(&mut self.names, name, entry);
        for host in &entry.hosts {
            let hash = self.hash_host(host);
            claim(&mut self.hosts, hash, entry);
        }
    }

    pub(super) fn remove(&mut self, entry: &Arc<ProductEntry>) {
        let name = self.hash_name(&entry.organization_slug, &entry.slug);
        release(&mut self.names, name, entry);
        for host in &entry.hosts {
            let hash = self.hash_host(host);
            release(&mut self.hosts, hash, entry);
        }
    }

    pub(super) fn by_name(&self, organization: &str, product: &str) -> Option<&Arc<ProductEntry>> {
        let claims = self.names.get(&self.hash_name(organization, product))?;
        claims.iter().find(|entry| entry.slug == product && entry.organization_slug == organization)
    }

    /// `host` as the client wrote it: any case, with or without a port or a final dot.
    pub(super) fn by_host(&self, host: &str) -> Option<&Arc<ProductEntry>> {
        if self.hosts.len() == 0 {
            return None;
        }
        let host = bare_host(host);
        let claims = self.hosts.get(&self.hash_host(host))?;
        claims.iter().find(|entry| entry.hosts.iter().any(|own| own.eq_ignore_ascii_case(host)))
    }

    fn hash_name(&self, organization: &str, product: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(organization.as_bytes());
        // No slug holds a slash, so two names never run into each other.
        hasher.write_u8(b'/');
        hasher.write(product.as_bytes());
        hasher.finish()
    }

    fn hash_host(&self, host: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for byte in host.bytes() {
            hasher.write_u8(byte.to_ascii_lowercase());
        }
        hasher.finish()
    }
}

type Claims = CowMap<u64, Arc<[Arc<ProductEntry>]>, IdState>;

/// The lowest id is first and wins: the product that is older.
fn claim(claims: &mut Claims, hash: u64, entry: &Arc<ProductEntry>) {
    let mut claimants: Vec<Arc<ProductEntry>> = claims.get(&hash).map(|all| all.to_vec()).unwrap_or_default();
    claimants.retain(|other| other.id != entry.id);
    claimants.push(Arc::clone(entry));
    claimants.sort_by_key(|other| other.id);
    claims.insert(hash, claimants.into());
}

fn release(claims: &mut Claims, hash: u64, entry: &Arc<ProductEntry>) {
    let Some(all) = claims.get(&hash) else { return };
    let rest: Vec<Arc<ProductEntry>> = all.iter().filter(|other| other.id != entry.id).cloned().collect();
    if rest.is_empty() {
        claims.remove(&hash);
    } else {
        claims.insert(hash, rest.into());
    }
}

/// Without the port and the final dot. An address in brackets keeps them: no product has one as its host.
fn bare_host(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}
