//! The description of the API and a page to try it.

use std::sync::Arc;

use axum::Router;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_swagger_ui::SwaggerUi;

use super::{choice, comfy, image, local, metering, read, recordings, runner, start, stream, webrtc, workflow};
use crate::supervisor::hub::Hub;

#[derive(OpenApi)]
#[openapi(
    info(title = "Livepeer AI Runner", description = "An application to run AI pipelines"),
    paths(
        read::health,
        read::version,
        read::hardware_info,
        read::hardware_stats,
        start::start,
        local::start,
        local::params,
        local::status,
        local::pipeline,
        local::stop,
        metering::streams,
        metering::intervals,
        metering::frames,
        metering::trace,
        image::image,
        stream::start,
        stream::stop,
        stream::update,
        stream::status,
        stream::stop_one,
        stream::update_one,
        stream::update_one_too,
        stream::status_one,
        stream::list,
        runner::start,
        runner::update,
        runner::stop,
        runner::status,
        comfy::prompt,
        comfy::all,
        comfy::one,
        workflow::check,
        workflow::plan,
        webrtc::whip,
        webrtc::whip_named,
        webrtc::whep,
        webrtc::whep_named,
        webrtc::offer,
        webrtc::trickle,
        webrtc::leave,
        webrtc::ice,
        recordings::list,
        recordings::start,
        recordings::stop,
        recordings::get,
        recordings::delete,
        choice::list,
        choice::switch,
        choice::workflow,
    ),
    modifiers(&Bearer)
)]
struct Doc;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        openapi.components.get_or_insert_default().add_security_scheme("HTTPBearer", scheme);
    }
}

/// The OpenAPI description; `prefix` stands before the routes of streams.
fn document(version: &str, prefix: &str) -> utoipa::openapi::OpenApi {
    let mut document = Doc::openapi();
    let paths = std::mem::take(&mut document.paths.paths).into_iter();
    // Those of ComfyStream's own server stay.
    let moves = |path: &str| path == "/streams" || path.starts_with("/stream/") && !path.ends_with("/stats");
    let whole = |path: String| match moves(&path) {
        true => format!("{prefix}{path}"),
        false => path,
    };
    document.paths.paths = paths.map(|(path, item)| (whole(path), item)).collect();
    document.info.version = version.to_owned();
    document.info.license = None;
    document.info.contact = None;
    document
}

/// `/openapi.json` and the pages under `/docs`.
pub(super) fn pages(version: &str, prefix: &str) -> Router<Arc<Hub>> {
    SwaggerUi::new("/docs").url("/openapi.json", document(version, prefix)).into()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn operations_have_the_names_that_clients_are_made_from() {
        let document: Value = serde_json::to_value(document("1.2.3", "")).expect("json");
        assert!(
            document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")),
            "{}",
            document["openapi"]
        );
        assert_eq!(document["info"]["title"], "Livepeer AI Runner");
        assert_eq!(document["info"]["version"], "1.2.3");
        for (path, method, id) in [
            ("/health", "get", "health"),
            ("/version", "get", "version"),
            ("/hardware/info", "get", "hardware_info"),
            ("/hardware/stats", "get", "hardware_stats"),
            ("/live-video-to-video", "post", "genLiveVideoToVideo"),
            ("/whip", "post", "whip"),
            ("/whip/{stream}", "post", "whipNamed"),
            ("/whep", "post", "whep"),
            ("/whep/{stream}", "post", "whepNamed"),
            ("/offer", "post", "offer"),
            ("/webrtc/{resource}", "patch", "webrtcPatch"),
            ("/webrtc/{resource}", "delete", "webrtcDelete"),
            ("/webrtc/ice-servers", "get", "iceServers"),
        ] {
            assert_eq!(document["paths"][path][method]["operationId"], id);
        }
        for (path, method) in [
            ("/stream/start", "post"),
            ("/stream/stop", "post"),
            ("/stream/params", "post"),
            ("/stream/status", "get"),
            ("/stream/{id}/stop", "post"),
            ("/stream/{id}/params", "post"),
            ("/stream/{id}/update", "post"),
            ("/stream/{id}/status", "get"),
            ("/streams", "get"),
            ("/recordings", "post"),
            ("/recordings/{id}", "delete"),
            ("/api/pipeline", "post"),
            ("/prompt", "post"),
            ("/streams/stats", "get"),
            ("/stream/{id}/stats", "get"),
        ] {
            let operation = &document["paths"][path][method];
            let well = |(status, _): (&String, &Value)| status.starts_with('2');
            assert!(operation["responses"].as_object().is_some_and(|all| all.iter().any(well)), "{path}");
            assert!(operation["responses"]["401"].is_object() && operation["security"].is_array(), "{path}");
            assert!(operation["summary"].is_string() || operation["description"].is_string(), "{path}");
        }
        // Whatever a start may carry is named, and every reference leads somewhere.
        let schemas = &document["components"]["schemas"];
        let start = &schemas["StreamStart"];
        assert_eq!(start["required"], serde_json::json!(["gateway_request_id"]));
        assert_eq!(schemas["StreamParams"]["properties"]["max_framerate"]["maximum"], 60);
        let text = document.to_string();
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap_or_default();
            assert!(schemas[name].is_object(), "{name}");
        }
        // With a prefix the routes of streams move, and no others.
        let moved: Value = serde_json::to_value(super::document("1.2.3", "/v1")).expect("json");
        let paths = &moved["paths"];
        assert!(paths["/v1/stream/{id}/update"].is_object() && paths["/v1/streams"].is_object());
        assert!(paths["/stream/{id}/stats"].is_object() && paths["/streams/stats"].is_object());
        assert!(paths["/health"].is_object() && paths["/stream/start"].is_null());
        let required = &document["components"]["schemas"]["LiveVideoToVideoParams"]["required"];
        assert_eq!(*required, serde_json::json!(["subscribe_url", "publish_url"]));
        let whip = &document["paths"]["/whip"]["post"];
        assert!(whip["requestBody"]["content"]["application/sdp"].is_object(), "{whip}");
        assert!(whip["responses"]["201"]["headers"]["Link"].is_object(), "{whip}");
        let offer = &document["components"]["schemas"]["OfferBody"];
        assert_eq!(offer["required"], serde_json::json!(["offer"]), "{offer}");
        assert_eq!(document["components"]["securitySchemes"]["HTTPBearer"]["scheme"], "bearer");
    }
}
