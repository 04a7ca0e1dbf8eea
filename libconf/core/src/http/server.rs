//! One connection, from its handshake to its last answer.

use std::{convert::Infallible, pin::pin, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header;
use http_body_util::{BodyExt, BodyStream, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Body as _, Incoming as Asked},
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{rt::TokioIo, server::graceful::Watcher};
use tokio_util::sync::CancellationToken;

use crate::access::Principal;
use crate::http::{
    answer::Response,
    authenticator::{Proof, Visitor, unproven},
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

type Outgoing = UnsyncBoxBody<Bytes, BoxError>;
/// What somebody is told whose token ended while something went on.
const REVOKED: &str = "the token was revoked or has expired";

type BoxError = Box<dyn std::error::Error + Send + Sync>;

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
        let guard = self.gate.as_ref().and_then(|gate| gate.authenticator.as_ref());
        let path = request.uri().path().to_owned();
        let admitted = match (refusal, guard) {
            (Some(refusal), _) => Err(refusal),
            (None, Some(guard)) => guard.admit(request.method(), request.uri(), request.headers(), peer),
            (None, None) => Ok(Visitor { principal: Principal::Anybody, proof: None }),
        };
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(self.spools);
        let (mut response, proof) = match admitted {
            Err(refusal) => (refusal, None),
            Ok(visitor) => {
                request.extensions_mut().insert(visitor.principal.clone());
                let called = self.routes.call(request);
                let response = match &visitor.proof {
                    // It may have waited for long, or taken a push.
                    Some(proof) => tokio::select! {
                        response = called => response?,
                        () = proof.clone().ended() => unproven(REVOKED),
                    },
                    None => called.await?,
                };
                let concealed = guard.map(|guard| guard.conceals(&path, &visitor, &response));
                let response = concealed.flatten().unwrap_or(response);
                (response, visitor.proof)
            }
        };
        patience.is_for_events(is_of_events(&response));
        close_to_pages(response.headers_mut());
        Ok(end_with_proof(end_events_on_stop(response, self.stop), proof))
    }
}

fn is_of_events(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream")
}

fn end_events_on_stop(response: Response, stop: CancellationToken) -> http::Response<Outgoing> {
    if !is_of_events(&response) {
        return response.map(|body| body.map_err(BoxError::from).boxed_unsync());
    }
    response.map(|body| {
        let frames = BodyStream::new(body).take_until(stop.cancelled_owned());
        StreamBody::new(frames).map_err(BoxError::from).boxed_unsync()
    })
}

/// Tears an answer off when the token that asked for it proves nothing any more. One that is in
/// memory is with its reader at once.
fn end_with_proof(response: http::Response<Outgoing>, proof: Option<Proof>) -> http::Response<Outgoing> {
    let Some(proof) = proof.filter(|_| response.body().size_hint().exact().is_none()) else { return response };
    response.map(|body| {
        let frames = async_stream::stream! {
            let (mut frames, mut ended) = (pin!(BodyStream::new(body)), pin!(proof.ended()));
            loop {
                let frame = tokio::select! {
                    frame = frames.next() => frame,
                    () = &mut ended => Some(Err(BoxError::from(REVOKED))),
                };
                let Some(frame) = frame else { return };
                let is_last = frame.is_err();
                yield frame;
                if is_last {
                    return;
                }
            }
        };
        StreamBody::new(frames).boxed_unsync()
    })
}
