-- Coordinators share the shards: every lane says that it lives with its renewal, and learns from the same answer how many
-- do, which place it has among them, and what is vacant. So each can tell its fair share without asking another.

create table coordinator_lanes (
  id uuid primary key,
  owner text not null,
  joined_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz not null,
  hears_since timestamptz
);
comment on table coordinator_lanes is 'Lanes of coordinators that are alive, with or without shards.';
comment on column coordinator_lanes.id is 'Drawn by each start of a lane.';
comment on column coordinator_lanes.owner is 'Name of the coordinator and number of the lane, a label.';
comment on column coordinator_lanes.joined_at is 'Earlier lanes have the larger shares, where shares differ.';
comment on column coordinator_lanes.expires_at is 'On the clock of the database; renewed with the leases of its shards.';
comment on column coordinator_lanes.hears_since is 'Since when it hears the coordinators over NATS; null: it is cut off, and others that are not take its shards.';

-- Says that a lane lives, renews its leases and saves positions and marks with them. Raises O8F01 when a lease is no longer
-- held. Shards are shared by the lanes that have heard NATS for p_settle_ms, or by all if none has: lanes is their number, 0 for
-- one that is not among them. next_expiry: when the first lease of another lane runs out, unless it is renewed.
create function renew_lane(
  p_lane uuid, p_owner text, p_hears boolean, p_settle_ms bigint, p_positions position_row[], p_lease_ms bigint, p_marks mark_row[])
returns table (now timestamptz, next_due timestamptz, inbox boolean, lanes int, rank int, vacant int, next_expiry timestamptz)
language plpgsql as $$
declare
  ours coordinator_lanes;
  renewed record;
begin
  delete from coordinator_lanes where id in (
    select l.id from coordinator_lanes l where l.expires_at < clock_timestamp() - interval '1 minute' and l.id <> p_lane
    for update skip locked);
  insert into coordinator_lanes as l (id, owner, expires_at, hears_since)
  values (p_lane, p_owner, clock_timestamp() + p_lease_ms * interval '1 millisecond', case when p_hears then clock_timestamp() end)
  on conflict (id) do update set
    expires_at = excluded.expires_at, hears_since = case when p_hears then coalesce(l.hears_since, excluded.hears_since) end
  returning l.* into ours;
  -- First, so that the counts below see our own leases as they are now.
  select r.now, r.next_due, r.inbox into renewed from renew_shards(p_positions, p_lease_ms, p_marks) r;
  return query with alive as (
    select l.id, l.joined_at,
      coalesce(l.hears_since < clock_timestamp() - p_settle_ms * interval '1 millisecond', false) as hears
    from coordinator_lanes l where l.expires_at > clock_timestamp() or l.id = p_lane),
  sharing as (select * from alive l where l.hears or not exists (select 1 from alive o where o.hears))
  select renewed.now, renewed.next_due, renewed.inbox, a.lanes, a.rank, s.vacant, s.next_expiry from
    (select case when bool_or(l.id = p_lane) then count(*)::int else 0 end as lanes,
        (count(*) filter (where (l.joined_at, l.id) < (ours.joined_at, ours.id)))::int as rank
      from sharing l) a,
    (select (count(*) filter (where h.lease_id is null or h.expires_at <= clock_timestamp()))::int as vacant,
        min(h.expires_at) filter (where h.expires_at > clock_timestamp()
          and h.lease_id not in (select p.lease_id from unnest(p_positions) p)) as next_expiry
      from shards h) s;
end $$;

-- Takes up to p_limit vacant shards under one new lease. A row that another transaction holds is passed over: it is being
-- taken or renewed, or a commit of its last owner has not ended yet; the next look finds it.
create function take_vacant(p_limit int, p_lease uuid, p_owner text, p_lease_ms bigint) returns setof shards language sql as $$
  with vacant as (
    select s.shard from shards s where s.lease_id is null or s.expires_at <= clock_timestamp()
    order by s.shard limit p_limit for update skip locked)
  update shards s set
    lease_id = p_lease, owner = p_owner, expires_at = clock_timestamp() + p_lease_ms * interval '1 millisecond'
  from vacant where s.shard = vacant.shard
  returning s.*
$$;

-- Takes back under one new lease what is held under one of p_mine, run out or not. Waits for whatever is under way there.
create function retake_shards(p_mine uuid[], p_lease uuid, p_owner text, p_lease_ms bigint)
returns setof shards language plpgsql as $$
begin
  perform 1 from shards s where s.lease_id = any (p_mine) order by s.shard for update;
  return query update shards s set
    lease_id = p_lease, owner = p_owner, expires_at = clock_timestamp() + p_lease_ms * interval '1 millisecond'
  where s.lease_id = any (p_mine)
  returning s.*;
end $$;

-- Gives some shards away.
create function hand_over_shards(p_shards int[], p_leases uuid[]) returns void language sql as $$
  update shards s set lease_id = null, owner = null, expires_at = null
  from unnest(p_shards, p_leases) h (shard, lease_id) where s.shard = h.shard and s.lease_id = h.lease_id
$$;

-- A lane ends: what it still holds is vacant, and it counts no more.
create function leave_lane(p_lane uuid, p_leases uuid[]) returns void language sql as $$
  update shards set lease_id = null, owner = null, expires_at = null where lease_id = any (p_leases);
  delete from coordinator_lanes where id = p_lane;
$$;

-- A batch with events from the inbox: their rows go with the commit that decides them.
create function commit_batch(
  p_shards int[], p_leases uuid[],
  p_plans plan_row[], p_new_executions execution_static[], p_new_execution_states execution_state[],
  p_new_tasks task_static[], p_new_task_states task_state[],
  p_execution_states execution_state[], p_task_states task_state[],
  p_results result_row[], p_attempts attempt_row[], p_history history_row[], p_marks mark_row[], p_inbox uuid[]
) returns timestamptz language plpgsql as $$
declare
  committed timestamptz;
begin
  committed := commit_batch(p_shards, p_leases, p_plans, p_new_executions, p_new_execution_states, p_new_tasks, p_new_task_states,
    p_execution_states, p_task_states, p_results, p_attempts, p_history, p_marks);
  delete from shard_inbox where shard = any (p_shards) and id = any (p_inbox);
  return committed;
end $$;

-- What cannot be applied is kept once, however often it comes.
alter table quarantined_events add column task_execution_id uuid, add column seen_count bigint not null default 1,
  add column last_seen_at timestamptz not null default now();
comment on column quarantined_events.task_execution_id is 'The task that it was about, if it was about one.';
comment on column quarantined_events.seen_count is 'How often it came.';
comment on column quarantined_events.last_seen_at is 'When it came last.';
delete from quarantined_events a using quarantined_events b
where a.ctid > b.ctid and a.shard = b.shard and a.workflow_id = b.workflow_id and a.event = b.event;
create unique index quarantined_events_once on quarantined_events (shard, md5(event::text), coalesce(workflow_id, id));
comment on index quarantined_events_once is 'quarantine_event: the same event again is counted.';

-- Keeps an event that cannot be applied. One from the inbox leaves it; a timer is tried again in an hour, or by a redrive.
create function quarantine_event(p_shard int, p_workflow uuid, p_task uuid, p_event jsonb, p_error text, p_inbox uuid)
returns void language plpgsql as $$
begin
  insert into quarantined_events as q (shard, workflow_id, task_execution_id, event, error)
  values (p_shard, p_workflow, p_task, p_event, p_error)
  on conflict (shard, md5(event::text), coalesce(workflow_id, id)) do update set
    seen_count = q.seen_count + 1, last_seen_at = clock_timestamp(), error = excluded.error;
  delete from shard_inbox where shard = p_shard and id = p_inbox;
  if p_event ->> 'event' = 'due' then
    update task_executions set due_at = clock_timestamp() + interval '1 hour' where id = p_task and due_at is not null;
  end if;
end $$;

-- Tries a quarantined event again: through the inbox of its shard. Returns how that went: redriven; not_found; comes_by_itself,
-- for what executors or the coordinator will say again, or have decided otherwise.
create function redrive_event(p_id uuid) returns text language plpgsql as $$
declare
  kept quarantined_events;
begin
  select * into kept from quarantined_events where id = p_id for update;
  if not found then
    return 'not_found';
  end if;
  if kept.event ? 'inbox' then
    insert into shard_inbox (shard, event) values (kept.shard, kept.event -> 'inbox');
  elsif kept.event ->> 'event' = 'due' then
    update task_executions set due_at = clock_timestamp() where id = kept.task_execution_id and due_at is not null;
    insert into shard_inbox (shard, event)
    values (kept.shard, jsonb_build_object('type', 'due', 'task_id', kept.task_execution_id));
  else
    return 'comes_by_itself';
  end if;
  delete from quarantined_events where id = p_id;
  return 'redriven';
end $$;

-- The lease id alone decides: every take draws a new one under the lock of the row, so a lease that has run out and was not taken
-- is still its owner's, and a database that stood still for longer than a lease costs no recovery.
create or replace function check_fence(p_shards int[], p_leases uuid[]) returns void language plpgsql as $$
declare
  held bigint;
begin
  select count(*) into held from (
    select 1 from shards s join unnest(p_shards, p_leases) f (shard, lease_id) on s.shard = f.shard and s.lease_id = f.lease_id
    for key share of s
  ) fenced;
  if held <> cardinality(p_shards) then
    raise exception 'the lease of a shard is no longer held' using errcode = 'O8F01';
  end if;
end $$;
