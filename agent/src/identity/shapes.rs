//! Tokens as their providers document them: whom each names, and by which settings.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Issuers;
use super::tests::{Key, NOW, Provider, rules};

/// A provider's token and what a policy for it says.
struct Shape {
    provider: &'static str,
    settings: &'static str,
    claims: Value,
    subject: &'static str,
    name: Option<&'static str>,
    groups: &'static [&'static str],
}

/// Claims beside iss, aud, iat and exp, after each provider's documentation.
fn shapes() -> Vec<Shape> {
    vec![
        Shape {
            // developer.okta.com/docs/api/openapi/okta-oauth: ID token payload; groups by a groups claim filter.
            provider: "Okta",
            settings: "groups_claim = \"groups\"\nname_claim = \"preferred_username\"",
            claims: json!({
                "ver": 1, "sub": "00uid4BxXw6I6TV4m0g3", "jti": "ID.4eAWJOCMB3SX8XewDfVR", "amr": ["pwd"],
                "idp": "00ok1u7AsAkrwdZL3z0g3", "name": "John Doe", "preferred_username": "john@acme.example",
                "auth_time": NOW - 60, "at_hash": "cpqKfdQA5eH891Ff5oJr_Q", "groups": ["Everyone", "dba"],
            }),
            subject: "00uid4BxXw6I6TV4m0g3",
            name: Some("john@acme.example"),
            groups: &["Everyone", "dba"],
        },
        Shape {
            // learn.microsoft.com/entra/identity-platform/id-token-claims-reference, version 2.0; groups are object ids.
            provider: "Entra ID",
            settings: "groups_claim = \"groups\"\nname_claim = \"preferred_username\"",
            claims: json!({
                "ver": "2.0", "sub": "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ", "aio": "Df2UVXL1ix!lMCWMSOJB",
                "name": "Abe Lincoln", "preferred_username": "abeli@acme.example", "nbf": NOW - 10,
                "oid": "00000000-0000-0000-66f3-3332eca7ea81", "tid": "9122040d-6c67-4c5b-b112-36a304b66dad",
                "groups": ["0e129f6b-6b0a-4944-982d-f776000632af"], "roles": ["Approver"],
            }),
            subject: "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ",
            name: Some("abeli@acme.example"),
            groups: &["0e129f6b-6b0a-4944-982d-f776000632af"],
        },
        Shape {
            provider: "Entra ID, app roles",
            settings: "groups_claim = \"roles\"",
            claims: json!({"sub": "AAA", "roles": ["Approver"], "ver": "2.0"}),
            subject: "AAA",
            name: None,
            groups: &["Approver"],
        },
        Shape {
            // cloud.google.com/iam/docs/service-account-creds, google-signed ID tokens: azp is the service account's id.
            provider: "Google, service account",
            settings: "authorized_parties = [\"104029292853099978293\"]\nname_claim = \"email\"\nclaims = { email = \"ci@acme.iam.gserviceaccount.com\", email_verified = true }",
            claims: json!({
                "azp": "104029292853099978293", "sub": "104029292853099978293",
                "email": "ci@acme.iam.gserviceaccount.com", "email_verified": true,
            }),
            subject: "104029292853099978293",
            name: Some("ci@acme.iam.gserviceaccount.com"),
            groups: &[],
        },
        Shape {
            // keycloak.org/docs/latest/server_admin: realm roles and a group mapper with full paths; the audience is added
            // by a mapper while azp stays the client that logged in.
            provider: "Keycloak",
            settings: "groups_claim = \"realm_access.roles\"\nname_claim = \"preferred_username\"\nauthorized_parties = [\"ci-runner\"]\ntrusted_audiences = [\"account\"]",
            claims: json!({
                "jti": "onrtac:4a7c", "sub": "f:1:ada", "typ": "ID", "azp": "ci-runner", "sid": "dd1", "acr": "1",
                "aud": ["portcullis", "account"], "realm_access": {"roles": ["offline_access", "dba"]},
                "resource_access": {"account": {"roles": ["manage-account"]}}, "email_verified": false,
                "preferred_username": "ada", "groups": ["/acme/dba"],
            }),
            subject: "f:1:ada",
            name: Some("ada"),
            groups: &["offline_access", "dba"],
        },
        Shape {
            provider: "Keycloak, groups",
            settings: "groups_claim = \"groups\"",
            claims: json!({"sub": "ada", "typ": "ID", "azp": "portcullis", "groups": ["/acme/dba", "/acme/dev"]}),
            subject: "ada",
            name: None,
            groups: &["/acme/dba", "/acme/dev"],
        },
        Shape {
            // docs.github.com/actions/concepts/security/openid-connect: numbers come as texts, there are no groups.
            provider: "GitHub Actions",
            settings: "claims = { repository = \"acme/orders\", repository_visibility = \"private\", ref = [\"refs/heads/main\", \"refs/tags/*\"], environment = \"prod\" }\nname_claim = \"workflow_ref\"",
            claims: json!({
                "jti": "example-id", "sub": "repo:acme/orders:environment:prod", "environment": "prod",
                "ref": "refs/heads/main", "sha": "example-sha", "repository": "acme/orders",
                "repository_owner": "acme", "actor_id": "12", "repository_visibility": "private",
                "repository_id": "74", "repository_owner_id": "65", "run_id": "9191", "run_number": "10",
                "run_attempt": "2", "runner_environment": "self-hosted", "actor": "octocat", "workflow": "agents",
                "head_ref": "", "base_ref": "", "event_name": "workflow_dispatch", "ref_type": "branch",
                "workflow_ref": "acme/orders/.github/workflows/agents.yml@refs/heads/main",
                "job_workflow_ref": "acme/orders/.github/workflows/agents.yml@refs/heads/main",
                "nbf": NOW - 600,
            }),
            subject: "repo:acme/orders:environment:prod",
            name: Some("acme/orders/.github/workflows/agents.yml@refs/heads/main"),
            groups: &[],
        },
        Shape {
            // docs.gitlab.com/ci/secrets/id_token_authentication: ids are texts, groups_direct is a list.
            provider: "GitLab",
            settings: "groups_claim = \"groups_direct\"\nname_claim = \"user_login\"\nclaims = { project_path = \"acme/*\", ref_protected = \"true\" }",
            claims: json!({
                "jti": "c82eeb0c", "nbf": NOW - 15, "sub": "project_path:acme/orders:ref_type:branch:ref:main",
                "namespace_id": "72", "namespace_path": "acme", "project_id": "20", "project_path": "acme/orders",
                "user_id": "1", "user_login": "sample-user", "user_email": "sample-user@acme.example",
                "user_identities": [{"provider": "github", "extern_uid": "2435223452345"}], "pipeline_id": "574",
                "pipeline_source": "push", "job_id": "302", "ref": "main", "ref_type": "branch",
                "ref_protected": "true", "groups_direct": ["acme/dba", "acme/dev"], "runner_id": 1,
                "runner_environment": "self-hosted", "sha": "714a629c",
            }),
            subject: "project_path:acme/orders:ref_type:branch:ref:main",
            name: Some("sample-user"),
            groups: &["acme/dba", "acme/dev"],
        },
        Shape {
            // kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin: bound tokens; aud is a list.
            provider: "Kubernetes",
            settings: "groups_claim = \"sub\"\nclaims.\"kubernetes.io\".namespace = \"ci\"",
            claims: json!({
                "aud": ["portcullis"], "jti": "ea28ed49", "nbf": NOW - 5, "sub": "system:serviceaccount:ci:agent",
                "kubernetes.io": {
                    "namespace": "ci", "serviceaccount": {"name": "agent", "uid": "14ee3fa4"},
                    "pod": {"name": "agent-0", "uid": "778a530c"}, "warnafter": NOW + 60,
                },
            }),
            subject: "system:serviceaccount:ci:agent",
            name: None,
            groups: &["system:serviceaccount:ci:agent"],
        },
        Shape {
            // auth0.com/docs/secure/tokens/json-web-tokens/create-custom-claims: names are URLs.
            provider: "Auth0",
            settings: "groups_claim = \"https://acme.example/groups\"",
            claims: json!({"sub": "auth0|5c", "https://acme.example/groups": ["dba"], "nonce": "x"}),
            subject: "auth0|5c",
            name: None,
            groups: &["dba"],
        },
    ]
}

#[tokio::test]
async fn every_providers_token_names_its_subject() {
    let key = Key::new("1");
    let provider = Provider::start(&[&key]).await;
    for shape in shapes() {
        let issuers = Issuers::new(Arc::default());
        let rules = rules(&provider.issuer, shape.settings);
        let mut claims =
            json!({"iss": provider.issuer, "aud": "portcullis", "iat": NOW - 10, "exp": NOW + 300});
        for (name, value) in shape.claims.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let identity = issuers
            .verify(&rules, &key.token(&claims), Duration::from_secs(NOW))
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", shape.provider));
        assert_eq!(identity.subject, shape.subject, "{}", shape.provider);
        assert_eq!(identity.name.as_deref(), shape.name, "{}", shape.provider);
        assert_eq!(identity.groups, shape.groups, "{}", shape.provider);
    }
}

#[tokio::test]
async fn groups_that_cannot_be_told_refuse() {
    let key = Key::new("1");
    let provider = Provider::start(&[&key]).await;
    let issuers = Issuers::new(Arc::default());
    let rules = rules(&provider.issuer, "groups_claim = \"groups\"");
    let many: Vec<String> = (0..1001).map(|number| number.to_string()).collect();
    for (more, expected) in [
        // Entra ID's overage: the groups are elsewhere.
        (
            json!({"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://x"}}}),
            "overage",
        ),
        (json!({"hasgroups": true}), "overage"),
        (json!({"groups": [1, 2]}), "something else than texts"),
        (json!({"groups": {"a": 1}}), "neither a text nor a list"),
        (json!({"groups": many}), "more than 1000"),
        (json!({"groups": ["x".repeat(513)]}), "longer than 512"),
    ] {
        let mut claims =
            json!({"iss": provider.issuer, "sub": "a", "aud": "portcullis", "iat": NOW, "exp": NOW + 300});
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let error = issuers.verify(&rules, &key.token(&claims), Duration::from_secs(NOW)).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}
