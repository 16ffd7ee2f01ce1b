//! Where the state lives: what all stores must do, and what each must withstand.

#[cfg(test)]
mod conform;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod embedded;
#[cfg(test)]
mod etcd;
#[cfg(test)]
mod follow;
#[cfg(test)]
mod manifests;
#[cfg(test)]
mod stored;

/// A runtime for one test.
#[cfg(test)]
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
