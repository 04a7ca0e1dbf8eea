//! Layers for `tower`: a server joins the operation of each request, a client passes on its own.
//!
//! On the way in, [`JoinLayer`] puts an [`Operation`] into the request's extensions. On the way
//! out, [`InjectLayer`] takes the operation from the request's extensions and writes its pin into
//! the headers. It leaves a request without one alone.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response, StatusCode};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::client::{
    connect::Client,
    operation::{JoinError, Operation},
};

/// The way to treat a request whose baggage has a malformed pin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadPin {
    /// Answers it with 400 and an empty body; it does not reach the service.
    #[default]
    Refuse,
    /// Gives it a fresh pin.
    Begin,
}

/// Gives every request an [`Operation`] in its extensions: the one that its headers name, or else a
/// new one.
///
/// It never waits; reads do when this host does not have the pinned version yet. [`Client::join`]
/// says whose headers to trust.
#[derive(Clone, Debug)]
pub struct JoinLayer {
    client: Client,
    bad_pin: BadPin,
}

impl JoinLayer {
    /// Makes a layer that refuses malformed pins.
    pub fn new(client: Client) -> Self {
        JoinLayer { client, bad_pin: BadPin::default() }
    }

    /// Sets the way to treat malformed pins.
    #[must_use]
    pub fn bad_pin(mut self, bad_pin: BadPin) -> Self {
        self.bad_pin = bad_pin;
        self
    }
}

impl<S> Layer<S> for JoinLayer {
    type Service = Join<S>;

    fn layer(&self, inner: S) -> Join<S> {
        Join { inner, layer: self.clone() }
    }
}

/// The service that [`JoinLayer`] makes.
#[derive(Clone, Debug)]
pub struct Join<S> {
    inner: S,
    layer: JoinLayer,
}

impl<S, Body, Answer> Service<Request<Body>> for Join<S>
where
    S: Service<Request<Body>, Response = Response<Answer>>,
    Answer: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Joining<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let operation = match (self.layer.client.join(request.headers()), self.layer.bad_pin) {
            (Ok(operation), _) => operation,
            (Err(JoinError::Absent), _) | (Err(_), BadPin::Begin) => self.layer.client.begin(),
            (Err(_), BadPin::Refuse) => return Joining { inner: None },
        };
        request.extensions_mut().insert(operation);
        Joining { inner: Some(self.inner.call(request)) }
    }
}

pin_project! {
    /// The answer of a [`Join`]: the service's, or the refusal.
    #[derive(Debug)]
    pub struct Joining<F> {
        #[pin]
        inner: Option<F>,
    }
}

impl<F, Answer, Error> Future for Joining<F>
where
    F: Future<Output = Result<Response<Answer>, Error>>,
    Answer: Default,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if let Some(inner) = self.project().inner.as_pin_mut() {
            return inner.poll(context);
        }
        let mut refusal = Response::new(Answer::default());
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        Poll::Ready(Ok(refusal))
    }
}

/// Passes an operation on: [injects](Operation::inject) the one in a request's extensions into its
/// headers.
#[derive(Clone, Copy, Debug, Default)]
pub struct InjectLayer;

impl<S> Layer<S> for InjectLayer {
    type Service = Inject<S>;

    fn layer(&self, inner: S) -> Inject<S> {
        Inject { inner }
    }
}

/// The service that [`InjectLayer`] makes.
#[derive(Clone, Debug)]
pub struct Inject<S> {
    inner: S,
}

impl<S, Body> Service<Request<Body>> for Inject<S>
where
    S: Service<Request<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(operation) = request.extensions().get::<Operation>().cloned() {
            operation.inject(request.headers_mut());
        }
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::Ready, future::ready};

    use super::*;
    use crate::client::testing::{Export, Web, block_on, web};

    /// Answers with the pin in the request's extensions and its baggage.
    #[derive(Clone, Copy)]
    struct Echo;

    impl Service<Request<()>> for Echo {
        type Response = Response<String>;
        type Error = Infallible;
        type Future = Ready<Result<Response<String>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<()>) -> Self::Future {
            let operation = request.extensions().get::<Operation>();
            let port = operation.map(|operation| operation.get_blocking::<Web>("services/web").unwrap().port);
            let baggage = request.headers().get("baggage").map(|value| value.to_str().unwrap());
            ready(Ok(Response::new(format!("{port:?} {}", baggage.unwrap_or("-")))))
        }
    }

    #[test]
    fn a_request_brings_its_operation_and_passes_it_on() {
        let export = Export::with(2, &[("services/web/latest", &web(2))]);
        export.switch(5, &[("services/web/latest", &web(5))]);
        let client = export.client();
        let ask = |layer: JoinLayer, baggage: Option<&str>| {
            let mut request = Request::new(());
            if let Some(baggage) = baggage {
                request.headers_mut().insert("baggage", baggage.parse().unwrap());
            }
            let answer = block_on(layer.layer(InjectLayer.layer(Echo)).call(request)).unwrap();
            (answer.status().as_u16(), answer.into_body())
        };
        let strict = JoinLayer::new(client.clone());
        assert_eq!(ask(strict.clone(), Some("conf-version=3,a=1")), (200, "Some(2) a=1,conf-version=3".to_owned()));
        assert_eq!(ask(strict.clone(), Some("a=1")), (200, "Some(5) a=1,conf-version=5".to_owned()));
        assert_eq!(ask(strict.clone(), None), (200, "Some(5) conf-version=5".to_owned()));
        assert_eq!(ask(strict.clone(), Some("conf-version=x")), (400, String::new()));
        let lenient = strict.bad_pin(BadPin::Begin);
        assert_eq!(ask(lenient, Some("conf-version=x")), (200, "Some(5) conf-version=5".to_owned()));
    }

    #[test]
    fn a_request_outside_of_an_operation_is_left_alone() {
        let answer = block_on(InjectLayer.layer(Echo).call(Request::new(()))).unwrap();
        assert_eq!(answer.into_body(), "None -");
    }
}
