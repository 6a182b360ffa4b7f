//! The whole way of tasks with rights in force, and TLS to Postgres, to NATS and of the API.

use super::server::{Certificates, SecureNats, api_words, authorities, log_in};
use crate::harness::{InstallationOptions, PostgresScope, binary, wait_for};
use crate::scene::{SOON, Scene, noop};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use tokio::process::Command;

/// Turns TLS on in the scene's own Postgres; false, with a message, where it was built without.
async fn secure_postgres(scene: &Scene, certificates: &Certificates) -> Result<bool> {
    let cluster = scene.installation.server_folders()?.postgres.join("postgres/cluster");
    let owner = cluster.metadata().with_context(|| cluster.display().to_string())?;
    for name in ["server.pem", "server.key"] {
        let file = cluster.join(name);
        std::fs::copy(certificates.path(name), &file)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
        std::os::unix::fs::chown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    for statement in
        ["alter system set ssl_cert_file = 'server.pem'", "alter system set ssl_key_file = 'server.key'", "alter system set ssl = on"]
    {
        if let Err(error) = sqlx::query(statement).execute(&scene.installation.pool).await {
            ensure!(error.to_string().contains("not supported by this build"), "{statement}: {error}");
            eprintln!("skipped: this Postgres was built without TLS");
            return Ok(false);
        }
    }
    sqlx::query("select pg_reload_conf()").execute(&scene.installation.pool).await?;
    let on = async || {
        let ssl: String = sqlx::query_scalar("show ssl").fetch_one(&scene.installation.pool).await?;
        Ok((ssl == "on").then_some(()))
    };
    wait_for("Postgres to speak TLS", SOON, on).await?;
    Ok(true)
}

/// Starts coordinator and executors with the least rights and TLS everywhere.
async fn start(scene: &mut Scene, nats: &SecureNats, certificates: &Certificates) -> Result<()> {
    let installation = &mut scene.installation;
    let database = format!("{}?sslmode=verify-full&sslrootcert={}", installation.database_url, certificates.text("ca.pem"));
    installation.set_environment("ORCHESTR8_DATABASE_URL", &database);
    log_in(installation, nats, "coordinator");
    installation.api = installation.api.clone().trusting(authorities(&certificates.path("ca.pem"))?);
    installation.add_coordinator().await?;
    installation.wait_ready(0).await?;
    installation.api = installation.api_of(0);
    for (login, queues) in [("builders", &["default", "agents"][..]), ("gpu", &["gpu"])] {
        log_in(installation, nats, login);
        installation.serve_queues(queues);
        installation.add_executor().await?;
    }
    Ok(())
}

#[tokio::test]
async fn everything_works_with_the_least_rights_over_tls() -> Result<()> {
    let Some(certificates) = Certificates::make()? else { return Ok(()) };
    let options = InstallationOptions {
        coordinators: 0,
        executors: 0,
        postgres: PostgresScope::Own,
        coordinator_words: api_words(&certificates),
        ..InstallationOptions::default()
    };
    let mut scene = Scene::start(options).await?;
    if !secure_postgres(&scene, &certificates).await? {
        return Ok(());
    }
    let nats = SecureNats::start(&scene.installation, &certificates).await?;
    start(&mut scene, &nats, &certificates).await?;
    assert!(scene.api().url.starts_with("https://"), "{}", scene.api().url);
    let plain = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid) where application_name = 'orchestr8-lane' and not ssl";
    assert_eq!(
        (
            scene.number(plain).await?,
            scene
                .number(
                    "select count(*) from pg_stat_ssl join pg_stat_activity using (pid) where application_name = 'orchestr8-lane' and ssl"
                )
                .await?
        ),
        (0, 1)
    );
    let short = scene.submit(&noop(&json!("done"))).await?;
    assert_eq!(scene.result(&short).await?["result"], "done");
    // Claimed: it runs for longer than that takes; beats and control are in use then.
    let gpu = scene.submit(&json!({"run": "sleep 2; echo claimed", "queue": "gpu"})).await?;
    let cancelled = scene.submit(&json!({"handler": "sleep", "with": {"duration": "1h"}})).await?;
    assert_eq!(scene.holder(&cancelled).await?, 0, "the executor of its queue");
    scene.api().post(&format!("/api/v1/tasks/{cancelled}/cancel"), &json!({})).await?;
    assert_eq!(scene.result(&cancelled).await?["status"], "cancelled");
    assert_eq!(scene.holder(&gpu).await?, 1);
    assert_eq!(scene.result(&gpu).await?["status"], "completed");
    command_line(&scene, &certificates).await?;
    drained(&mut scene).await?;
    for process in scene.installation.coordinators.iter().chain(&scene.installation.executors) {
        let log = std::fs::read_to_string(process.log())?;
        assert!(!log.contains("does not let this login"), "{}: {log}", process.name());
    }
    scene.finish().await;
    Ok(())
}

/// A client that trusts the authority is answered; another is not.
async fn command_line(scene: &Scene, certificates: &Certificates) -> Result<()> {
    for (authority, code) in [("ca.pem", Some(0)), ("stranger.pem", Some(69))] {
        let mut list = Command::new(binary::orchestr8()?);
        list.args(["list", "--url", &scene.api().url, "--ca", &certificates.text(authority)]).env("ORCHESTR8_TOKEN", &scene.api().token);
        let output = list.output().await?;
        assert_eq!(output.status.code(), code, "{authority}: {output:?}");
    }
    Ok(())
}

/// An executor that drains lets its run end, and its outcome counts.
async fn drained(scene: &mut Scene) -> Result<()> {
    let last = scene.submit(&json!({"run": "sleep 1; echo last", "queue": "gpu"})).await?;
    scene.holder(&last).await?;
    let report = scene.installation.executors[1].terminate().await?;
    assert_eq!(report.exit_code, Some(0), "{report:?}");
    assert_eq!(scene.result(&last).await?["status"], "completed");
    let report = scene.installation.coordinators[0].terminate().await?;
    assert_eq!(report.exit_code, Some(0), "{report:?}");
    Ok(())
}
