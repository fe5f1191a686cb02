//! `GET /`: the status page for people, in one answer without anything from elsewhere.
//!
//! The page carries no data, so anybody may have it. Its script asks for the [JSON](super::monitoring) with the token that the reader gives
//! it, and shows that. Which of it is wrong is decided in [`crate::service::problems`], not there.
//!
//! Its policy lets a browser run this script and use this style, each known by its hash, and lets it speak with this service only. So
//! whatever a name that is shown holds, it is text.

use std::sync::LazyLock;

use axum::extract::State;
use axum::http::{header, HeaderName};
use axum::response::{IntoResponse, Response};
use base64::prelude::{Engine as _, BASE64_STANDARD};
use sha2::{Digest, Sha256};

use super::gate::HttpState;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
/// In the order in which they run.
const SCRIPTS: [&str; 5] = [
    include_str!("words.js"),
    include_str!("history.js"),
    include_str!("shard.js"),
    include_str!("source.js"),
    include_str!("page.js"),
];

/// The page, made once.
static MADE: LazyLock<Made> = LazyLock::new(|| {
    let script = SCRIPTS.concat();
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        hash(&script),
        hash(STYLE)
    );
    Made { text: PAGE.replace("{style}", STYLE).replace("{script}", &script), policy }
});

struct Made {
    /// As HTML, but for whether tokens are needed.
    text: String,
    /// The Content-Security-Policy.
    policy: String,
}

/// `GET /`.
pub async fn page(State(HttpState { service, .. }): State<HttpState>) -> Response {
    let Made { text, policy } = &*MADE;
    // So that the page asks for a token first: a request without one would count as a wrong one.
    let tokens = if service.needs_tokens() { "needed" } else { "none" };
    let headers: [(HeaderName, &str); 7] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text.replace("{tokens}", tokens)).into_response()
}

/// How a policy names what has this text.
fn hash(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_holds_all_of_itself_and_nothing_that_its_policy_forbids() {
        let text = &MADE.text;
        for (tag, inside) in [("script", SCRIPTS.concat()), ("style", STYLE.to_owned())] {
            let parts: Vec<_> = text.split(&format!("<{tag}>")).collect();
            let shown = parts.get(1).and_then(|rest| rest.split(&format!("</{tag}>")).next());
            assert_eq!((parts.len(), shown), (2, Some(&inside[..])), "exactly one {tag}");
            assert!(MADE.policy.contains(&hash(&inside)));
        }
        for forbidden in ["{style}", "{script}", " style=\"", " onclick", "src=", "<link rel=\"stylesheet", "innerHTML"]
        {
            assert!(!text.contains(forbidden), "{forbidden}");
        }
        assert_eq!(text.matches("{tokens}").count(), 1);
    }

    #[test]
    fn a_hash_is_as_browsers_make_it() {
        // The example of the specification, https://www.w3.org/TR/CSP3/.
        assert_eq!(hash("alert('Hello, world.');"), "sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng=");
    }
}
