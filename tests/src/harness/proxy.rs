//! A TCP proxy between one process and one server, so that this process alone can be cut off.

use anyhow::{Context, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What one read takes.
const CHUNK_BYTES: usize = 64 * 1024;

/// What happens to the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// They pass.
    Open,
    /// They wait, in both directions, as when packets vanish and are sent again once the way is back.
    Silent,
    /// Every read waits this long before it is passed on, in each direction, as on a way or server that crawls.
    Slow(Duration),
    /// Connections are ended and new ones refused, as by a firewall that resets.
    Closed,
}

/// A listening proxy; it ends when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    route: watch::Sender<Route>,
    serving: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of this machine for connections to the server of `url`.
    ///
    /// # Errors
    /// When the address names no port, or there is no free one.
    pub async fn start(url: &str) -> Result<Self> {
        let server = host_of(url)?.to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (route, watched) = watch::channel(Route::Open);
        let serving = tokio::spawn(serve(listener, server, watched));
        Ok(Self { address, route, serving })
    }

    /// The same address of the server, by way of this proxy.
    ///
    /// # Errors
    /// When the address names no port.
    pub fn url(&self, url: &str) -> Result<String> {
        Ok(url.replacen(host_of(url)?, &self.address.to_string(), 1))
    }

    /// From now on.
    pub fn set(&self, route: Route) {
        self.route.send_replace(route);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// `host:port` of `scheme://user:password@host:port/path`.
fn host_of(url: &str) -> Result<&str> {
    let (_, rest) = url.split_once("://").with_context(|| format!("{url} is no address"))?;
    let authority = rest.split('/').next().unwrap_or(rest);
    Ok(authority.rsplit_once('@').map_or(authority, |(_, host)| host))
}

async fn serve(listener: TcpListener, server: String, route: watch::Receiver<Route>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(connection(client, server.clone(), route.clone()));
    }
}

/// A connection whose server is not there ends at once, as without a proxy.
async fn connection(client: TcpStream, server: String, mut route: watch::Receiver<Route>) {
    if !passes(&mut route).await {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else { return };
    if client.set_nodelay(true).and(server.set_nodelay(true)).is_err() {
        return;
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = pump(from_client, to_server, route.clone()) => {}
        () = pump(from_server, to_client, route.clone()) => {}
        () = closed(route) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut route: watch::Receiver<Route>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        if !passes(&mut route).await || to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
}

/// Waits while the way is silent, or as long as a slow one takes; whether it is open then.
async fn passes(route: &mut watch::Receiver<Route>) -> bool {
    let now = route.wait_for(|route| *route != Route::Silent).await.map(|route| *route);
    match now {
        Ok(Route::Open) => true,
        Ok(Route::Slow(pause)) => {
            // A way that gets better meanwhile does not keep what it held back.
            tokio::time::timeout(pause, route.wait_for(|route| !matches!(route, Route::Slow(_)))).await.ok();
            true
        }
        Ok(Route::Silent | Route::Closed) | Err(_) => false,
    }
}

/// Waits for the end of the way.
async fn closed(mut route: watch::Receiver<Route>) {
    route.wait_for(|route| *route == Route::Closed).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::time::timeout;

    /// Long enough to be sure that nothing comes.
    const NOTHING_COMES: Duration = Duration::from_millis(100);
    const SOON: Duration = Duration::from_secs(10);

    /// A server that sends back what it gets, and a proxy before it.
    async fn echo() -> Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("tcp://user:secret@{}/path", listener.local_addr()?);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut from, mut to) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await.ok() });
            }
        });
        let proxy = Proxy::start(&url).await?;
        assert_eq!(proxy.url(&url)?, format!("tcp://user:secret@{}/path", proxy.address));
        Ok(proxy)
    }

    #[tokio::test]
    async fn silence_delays_and_a_closed_way_ends_connections() -> Result<()> {
        let proxy = echo().await?;
        let mut stream = TcpStream::connect(proxy.address).await?;
        let mut byte = [0];
        stream.write_all(b"a").await?;
        timeout(SOON, stream.read_exact(&mut byte)).await??;
        proxy.set(Route::Silent);
        stream.write_all(b"b").await?;
        assert!(timeout(NOTHING_COMES, stream.read_exact(&mut byte)).await.is_err(), "it was silent");
        proxy.set(Route::Open);
        timeout(SOON, stream.read_exact(&mut byte)).await??;
        assert_eq!(&byte, b"b");
        proxy.set(Route::Slow(NOTHING_COMES));
        let sent = Instant::now();
        stream.write_all(b"c").await?;
        timeout(SOON, stream.read_exact(&mut byte)).await??;
        assert!(sent.elapsed() >= NOTHING_COMES * 2, "it took both ways slowly");
        proxy.set(Route::Closed);
        assert_eq!(timeout(SOON, stream.read(&mut byte)).await?.unwrap_or(0), 0);
        let mut refused = TcpStream::connect(proxy.address).await?;
        assert_eq!(timeout(SOON, refused.read(&mut byte)).await?.unwrap_or(0), 0);
        Ok(())
    }
}
