//! One connection, from its handshake to its last answer.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming as Asked,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{rt::TokioIo, server::graceful::Watcher};
use tokio_util::sync::CancellationToken;

use crate::http::{
    answer::Response,
    connection::Patience,
    gate::{Gate, close_to_pages},
    handshake::{Incoming, lacks_tls},
    peer::Peer,
    spool::Spools,
};

/// What every connection of a listener is served with.
#[derive(Clone)]
pub(crate) struct Server<S> {
    pub(crate) gate: Option<Gate>,
    pub(crate) routes: S,
    pub(crate) spools: Spools,
    pub(crate) stop: CancellationToken,
    /// How long a handshake of TLS may take.
    pub(crate) handshake: Duration,
}

type Outgoing = UnsyncBoxBody<Bytes, warp::Error>;

impl<S> Server<S>
where
    S: Service<http::Request<Asked>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    /// Serves a connection to its end. A handshake that is not done at the stop ends there.
    pub(crate) fn serve(
        self,
        builder: &http1::Builder,
        watcher: Watcher,
        incoming: Incoming,
        (peer, patience): (Peer, Patience),
    ) -> impl Future<Output = ()> + Send + use<S> {
        let builder = builder.clone();
        async move {
            let opened = match self.stop.run_until_cancelled(incoming.open(self.handshake)).await {
                Some(Ok(opened)) => opened,
                Some(Err(cause)) => return tracing::debug!(%cause, ?peer, "a handshake failed"),
                None => return,
            };
            let lacks = opened.lacks_tls;
            let service = service_fn(move |request| self.clone().answer(request, peer, patience.clone(), lacks));
            let connection = builder.serve_connection(TokioIo::new(opened.stream), service);
            if let Err(cause) = watcher.watch(connection).await {
                tracing::debug!(%cause, ?peer, "a connection broke");
            }
        }
    }

    async fn answer(
        self,
        mut request: http::Request<Asked>,
        peer: Peer,
        patience: Patience,
        lacks: bool,
    ) -> Result<http::Response<Outgoing>, Infallible> {
        let refusal = || self.gate.as_ref().and_then(|gate| gate.refusal(request.method(), request.headers()));
        let refusal = lacks.then(lacks_tls).or_else(refusal);
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(self.spools);
        let mut response = match refusal {
            Some(refusal) => refusal,
            None => self.routes.call(request).await?,
        };
        patience.is_for_events(is_of_events(&response));
        close_to_pages(response.headers_mut());
        Ok(end_events_on_stop(response, self.stop))
    }
}

fn is_of_events(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream")
}

fn end_events_on_stop(response: Response, stop: CancellationToken) -> http::Response<Outgoing> {
    if !is_of_events(&response) {
        return response.map(BodyExt::boxed_unsync);
    }
    response.map(|body| {
        let frames = http_body_util::BodyStream::new(body).take_until(stop.cancelled_owned());
        StreamBody::new(frames).boxed_unsync()
    })
}
