//! Signatures against those of botocore 1.x with a fixed clock (`testdata/sigv4.json`; its first is AWS's own get-vanilla).

use std::time::Duration;

use http::Request;
use serde_json::Value;

use super::*;

const KEYS: &str = "AKIDEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// 2015-08-30T12:36:00Z.
fn then() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_440_938_160)
}

/// A request as an agent's SDK sends it: signed for the same scope and fields, with keys of no worth.
fn dummy(case: &Value) -> Parts {
    let url: http::Uri = case["url"].as_str().unwrap().parse().unwrap();
    let expected = case["authorization"].as_str().unwrap();
    let (_, fields) = expected.split_once("SignedHeaders=").unwrap();
    let names = fields.split(',').next().unwrap();
    let service = case["service"].as_str().unwrap();
    let mut request = Request::builder()
        .method(case["method"].as_str().unwrap())
        .uri(url.path_and_query().unwrap().as_str())
        .header("host", url.host().unwrap())
        .header("x-amz-date", "20150101T000000Z")
        .header("x-amz-security-token", "the-agent-s")
        .header(
            "authorization",
            format!(
                "{ALGORITHM} Credential=AGENT/20150101/us-east-1/{service}/aws4_request, SignedHeaders={names}, Signature=0"
            ),
        );
    for (name, value) in case["headers"].as_object().unwrap() {
        request = request.header(name, value.as_str().unwrap());
    }
    if let Some(content) = case["content"].as_str() {
        request = request.header("x-amz-content-sha256", content);
    }
    request.body(()).unwrap().into_parts().0
}

#[test]
fn requests_are_signed_as_the_sdk_would() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../testdata/sigv4.json")).unwrap();
    assert!(cases.len() >= 9);
    for case in &cases {
        let mut parts = dummy(case);
        let token = case["token"].as_str().map(|token| format!(":{token}")).unwrap_or_default();
        let secret = Secret::new(format!("{KEYS}{token}").into_bytes());
        let digest: [u8; 32] = Sha256::digest(case["body"].as_str().unwrap()).into();
        sign(&mut parts, &secret, Some(&digest), then()).unwrap();
        assert_eq!(parts.headers[AUTHORIZATION], case["authorization"].as_str().unwrap(), "{}", case["name"]);
        assert_eq!(parts.headers["x-amz-date"], "20150830T123600Z");
        let sent = parts.headers.get("x-amz-security-token").map(|value| value.to_str().unwrap());
        assert_eq!(sent, case["token"].as_str(), "{}", case["name"]);
    }
}

#[test]
fn what_cannot_be_signed_says_why() {
    let secret = Secret::new(KEYS.as_bytes().to_vec());
    let plain = || Request::builder().uri("/").header("host", "x").body(()).unwrap().into_parts().0;
    let mut unsigned = plain();
    assert!(matches!(sign(&mut unsigned, &secret, None, then()), Err(SignError::NotSigned)));
    let cases: Vec<Value> = serde_json::from_str(include_str!("../testdata/sigv4.json")).unwrap();
    let mut chunked = dummy(&cases[0]);
    chunked.headers.insert(&CONTENT, HeaderValue::from_static("STREAMING-AWS4-HMAC-SHA256-PAYLOAD"));
    assert!(matches!(sign(&mut chunked, &secret, None, then()), Err(SignError::Chunked)));
    assert!(matches!(sign(&mut dummy(&cases[0]), &secret, None, then()), Err(SignError::BodyNeeded)));
    assert!(needs_body(&dummy(&cases[0])));
    let mut unsigned_payload = dummy(&cases[0]);
    unsigned_payload.headers.insert(&CONTENT, HeaderValue::from_static(UNSIGNED));
    assert!(!needs_body(&unsigned_payload));
    sign(&mut unsigned_payload, &secret, None, then()).unwrap();
    let broken = Secret::new(b"only-an-id".to_vec());
    let error = sign(&mut dummy(&cases[0]), &broken, Some(&[0; 32]), then()).unwrap_err();
    assert!(matches!(error, SignError::Credential) && !error.to_string().contains("only-an-id"));
}
