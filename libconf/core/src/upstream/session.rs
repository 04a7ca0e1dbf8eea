//! A host's session with one server above: where that asks who this is and there is no token, the
//! host proves itself by its identity key.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{
    Error, RequestBuilder, Response, StatusCode,
    header::{AUTHORIZATION, HeaderValue},
};

use crate::{
    api::{SecretText, SessionAnswer, SessionRequest},
    sign::sign_session,
    upstream::{bearer::HostProof, server::Upstream},
};

/// 5 s for each of the two questions that open a session.
const PATIENCE: Duration = Duration::from_secs(5);
/// 30 s for a question with a join token: a change lands before it is answered.
const OF_JOINING: Duration = Duration::from_secs(30);
/// One hour: no session is believed to be good for longer, whatever a server says.
const LONGEST: Duration = Duration::from_secs(3600);
/// The most bytes of an answer, and of what is taken from it.
const MOST_OF_ANSWER: usize = 8 << 10;
const MOST_OF_NONCE: usize = 256;
const MOST_OF_BEARER: usize = 2048;
/// 5 s before its end a session is no longer used.
const MARGIN: Duration = Duration::from_secs(5);

impl Upstream {
    /// Sends a request. Where the server then asks who this is, opens a session, and sends it once
    /// more; a session that the server refuses is the answer.
    pub(crate) async fn send_proven(&self, request: RequestBuilder) -> Result<Response, Error> {
        let Some(proof) = self.proof() else {
            return request.send().await;
        };
        let (again, before) = (request.try_clone(), self.session.bearer());
        let response = request.send().await?;
        match again.filter(|_| response.status() == StatusCode::UNAUTHORIZED) {
            None => Ok(response),
            // It happens seldom, and takes much room.
            Some(again) => Box::pin(self.send_again(proof, again, before, response)).await,
        }
    }

    async fn send_again(
        &self,
        proof: &HostProof,
        request: RequestBuilder,
        before: Option<Arc<str>>,
        refused: Response,
    ) -> Result<Response, Error> {
        let bearer = match self.open_session(proof, before).await? {
            Opened::Bearer(bearer) => bearer,
            // One that knows of no sessions asks for a token.
            Opened::Refused(answer) if answer.status() == StatusCode::NOT_FOUND => return Ok(refused),
            Opened::Nothing => return Ok(refused),
            Opened::Refused(answer) => return Ok(answer),
        };
        let (client, request) = request.build_split();
        let mut request = request?;
        if let Ok(mut value) = HeaderValue::try_from(format!("Bearer {bearer}")) {
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        client.execute(request).await
    }

    /// Opens a session in place of the one `before`, unless another task has done so meanwhile.
    async fn open_session(&self, proof: &HostProof, before: Option<Arc<str>>) -> Result<Opened, Error> {
        let _opening = self.session.opening.lock().await;
        if let Some(bearer) = self.session.bearer().filter(|bearer| Some(bearer) != before.as_ref()) {
            return Ok(Opened::Bearer(bearer));
        }
        if let Some(refusal) = self.session.refusal() {
            return Ok(Opened::Refused(refusal));
        }
        let HostProof { datacenter, host, identity } = proof;
        let (datacenter, host) = (datacenter.clone(), host.clone());
        let mut asked = SessionRequest { datacenter, host, nonce: None, signature: None, key: None, join: None };
        let nonce = match self.ask(&asked).await? {
            Said::Answer(SessionAnswer { nonce: Some(nonce), .. }) if is_letters(&nonce, MOST_OF_NONCE) => nonce,
            Said::Answer(_) => return Ok(Opened::Nothing),
            Said::Refusal(refusal) => return Ok(Opened::Refused(self.session.keep_refusal(refusal).await)),
        };
        asked.signature = sign_session((&asked.datacenter, &asked.host), &nonce, identity);
        asked.nonce = Some(nonce);
        asked.key = Some(identity.recipient().into());
        asked.join = self.credentials.join().map(|token| SecretText(token.to_string()));
        let (bearer, lives): (Arc<str>, _) = match self.ask(&asked).await? {
            Said::Answer(SessionAnswer { bearer: Some(bearer), lives, .. }) if is_letters(&bearer, MOST_OF_BEARER) => {
                (bearer.into(), Duration::from_secs(lives.unwrap_or_default().into()))
            }
            Said::Answer(_) => return Ok(Opened::Nothing),
            Said::Refusal(refusal) => return Ok(Opened::Refused(self.session.keep_refusal(refusal).await)),
        };
        let lives = lives.min(LONGEST).saturating_sub(MARGIN);
        *self.session.bearer.lock() = Some((bearer.clone(), Instant::now() + lives));
        tracing::debug!(server = %self.url(), "a session is open");
        Ok(Opened::Bearer(bearer))
    }

    /// Asks the server.
    async fn ask(&self, request: &SessionRequest) -> Result<Said, Error> {
        let patience = if request.join.is_some() { OF_JOINING } else { PATIENCE };
        let asked = self.client.post(self.at("api/v1/sessions")).json(request).timeout(patience);
        let mut response = asked.send().await?;
        if response.status() != StatusCode::OK {
            return Ok(Said::Refusal(response));
        }
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await? {
            body.extend_from_slice(&part);
            if body.len() > MOST_OF_ANSWER {
                break;
            }
        }
        // What cannot be read says nothing.
        Ok(Said::Answer(serde_json::from_slice(&body).unwrap_or_default()))
    }
}

/// True for a text of letters, digits, `-` and `_`.
fn is_letters(text: &str, most: usize) -> bool {
    !text.is_empty()
        && text.len() <= most
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

enum Said {
    Answer(SessionAnswer),
    /// Another status than 200.
    Refusal(Response),
}

enum Opened {
    Bearer(Arc<str>),
    Refused(Response),
    /// The server said something that opens none.
    Nothing,
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        iter,
        net::{TcpListener, TcpStream},
        thread,
    };

    use super::*;
    use crate::{
        secret::Identity,
        upstream::{credentials::Credentials, servers::Upstreams},
    };

    const UNPROVEN: &str = "401 Unauthorized";

    /// Answers each question with the next of these statuses and bodies.
    fn server(answers: Vec<(&'static str, String)>) -> (Upstreams, tempfile::TempDir, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answering = thread::spawn(move || {
            answers.into_iter().map(|(status, body)| answer(listener.accept().unwrap().0, status, &body)).collect()
        });
        let folder = tempfile::tempdir().unwrap();
        let identity = Arc::new(Identity::create(&folder.path().join("identity")).unwrap());
        let proof = HostProof { datacenter: "lab/v1".parse().unwrap(), host: "web-1".parse().unwrap(), identity };
        let servers = Upstreams::new(vec![url.parse().unwrap()], &Credentials::none().of_host(proof)).unwrap();
        (servers, folder, answering)
    }

    /// Reads a question, which it returns, and answers it.
    fn answer(mut client: TcpStream, status: &str, body: &str) -> String {
        let mut asked = Vec::new();
        let mut part = [0; 4096];
        while !is_whole(&asked) {
            let count = client.read(&mut part).unwrap();
            asked.extend_from_slice(&part[..count]);
        }
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        client.write_all(format!("{head}{body}").as_bytes()).unwrap();
        String::from_utf8(asked).unwrap()
    }

    fn is_whole(asked: &[u8]) -> bool {
        let text = String::from_utf8_lossy(asked);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        body.len() >= length.unwrap_or(0)
    }

    /// Asks one that knows nobody; returns the status, and what was asked.
    async fn ask(bodies: &[&str]) -> (u16, Vec<String>, Option<Arc<str>>) {
        let statuses = iter::once(UNPROVEN).chain(iter::repeat("200 OK"));
        let answers = statuses.zip(bodies.iter().map(|&body| body.to_owned())).collect();
        let (servers, _folder, answering) = server(answers);
        let one = servers.in_order().remove(0);
        let status = one.send_proven(one.client.get(one.at(""))).await.unwrap().status().as_u16();
        (status, answering.join().unwrap(), one.session.bearer())
    }

    #[tokio::test]
    async fn a_question_is_asked_again_with_the_session() {
        let good = r#"{"bearer": "confs_abc", "lives": 600}"#;
        let (status, asked, bearer) = ask(&["", r#"{"nonce": "n-1"}"#, good, "here it is"]).await;
        assert_eq!((status, bearer.as_deref()), (200, Some("confs_abc")));
        assert!(!asked[0].contains("uthorization"), "{}", asked[0]);
        assert!(asked[2].contains(r#""nonce":"n-1""#) && asked[2].contains("BEGIN SSH SIGNATURE"), "{}", asked[2]);
        assert!(asked[3].contains("Bearer confs_abc"), "{}", asked[3]);
    }

    #[tokio::test]
    async fn nothing_is_believed_that_would_stay_in_the_way() {
        let (long, many) = (format!(r#"{{"bearer": "{}"}}"#, "a".repeat(3000)), "x".repeat(20_000));
        for bearer in [r#"{"bearer": "confs_a\nb", "lives": 600}"#, r#"{"bearer": ""}"#, "{}", "[", &long, &many] {
            let (status, _, kept) = ask(&["", r#"{"nonce": "n"}"#, bearer]).await;
            assert_eq!((status, kept), (401, None), "{bearer}");
        }
        for nonce in [r#"{"nonce": "a\nhost web-2"}"#, r#"{"nonce": ""}"#, "{}"] {
            let (status, asked, _) = ask(&["", nonce]).await;
            assert_eq!((status, asked.len()), (401, 2), "{nonce}");
        }
        // No session is believed for longer than an hour.
        let lives = r#"{"bearer": "confs_a", "lives": 4294967295}"#;
        assert_eq!(ask(&["", r#"{"nonce": "n"}"#, lives, ""]).await.2.as_deref(), Some("confs_a"));
    }

    #[tokio::test]
    async fn a_refused_host_does_not_ask_for_a_session_with_each_request() {
        let refused = ("403 Forbidden", r#"{"error": "no such host"}"#.to_owned());
        let unproven = || (UNPROVEN, String::new());
        let (servers, _folder, answering) = server(vec![unproven(), refused, unproven()]);
        let one = servers.in_order().remove(0);
        for _ in 0..2 {
            let answer = one.send_proven(one.client.get(one.at(""))).await.unwrap();
            assert_eq!(answer.status(), StatusCode::FORBIDDEN);
            assert_eq!(answer.text().await.unwrap(), r#"{"error": "no such host"}"#);
        }
        let asked = answering.join().unwrap();
        let sessions = asked.iter().filter(|one| one.starts_with("POST /api/v1/sessions")).count();
        assert_eq!((sessions, asked.len()), (1, 3), "{asked:?}");
    }
}
