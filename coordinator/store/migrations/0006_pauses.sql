-- Operators look at shards and queues, and pause queues.

create table paused_queues (
  queue text primary key,
  reason text,
  paused_at timestamptz not null default clock_timestamp()
);
comment on table paused_queues is 'Queues of which nothing new is dispatched. Lanes learn of them with each renewal of their leases.';
comment on column paused_queues.queue is 'Which queue; it need not have tasks or executors.';
comment on column paused_queues.reason is 'Why, for people.';
comment on column paused_queues.paused_at is 'Since when.';

-- Pauses a queue, or gives a paused one another reason. Returns how that went: paused; already_paused; too_many, when p_limit
-- others are.
create function pause_queue(p_queue text, p_reason text, p_limit int) returns text language plpgsql as $$
begin
  update paused_queues set reason = coalesce(p_reason, reason) where queue = p_queue;
  if found then
    return 'already_paused';
  end if;
  -- Two at once could pass the limit together.
  lock table paused_queues in share row exclusive mode;
  if (select count(*) from paused_queues where queue <> p_queue) >= p_limit then
    return 'too_many';
  end if;
  insert into paused_queues (queue, reason) values (p_queue, p_reason) on conflict (queue) do nothing;
  return 'paused';
end $$;

-- Since when a shard has its owner; null for those that were taken before there was this column.
alter table shards add column owned_since timestamptz;
comment on column shards.owned_since is 'When its present owner took it; a recovery of the same owner leaves it.';

create or replace function take_vacant(p_limit int, p_lease uuid, p_owner text, p_lease_ms bigint) returns setof shards language sql as $$
  with vacant as (
    select s.shard from shards s where s.lease_id is null or s.expires_at <= clock_timestamp()
    order by s.shard limit p_limit for update skip locked)
  update shards s set
    lease_id = p_lease, owner = p_owner, expires_at = clock_timestamp() + p_lease_ms * interval '1 millisecond',
    owned_since = clock_timestamp()
  from vacant where s.shard = vacant.shard
  returning s.*
$$;
