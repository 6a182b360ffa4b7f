-- People look at what is quarantined, newest first, and have it tried again as often as they like.

create index quarantined_events_newest on quarantined_events (created_at desc, id desc);
comment on index quarantined_events_newest is 'Pages of GET /api/v1/quarantine.';

-- Tries a quarantined event again, through the inbox of its shard. Returns how that went: redriven; not_found; comes_by_itself,
-- for what executors or the coordinator will say again, or have decided otherwise. A timer is due now in any case: also one that
-- was quarantined a second time, from the inbox, was put off. A second ago, since the clock of a lane may be behind.
create or replace function redrive_event(p_id uuid) returns text language plpgsql as $$
declare
  kept quarantined_events;
begin
  select * into kept from quarantined_events where id = p_id for update;
  if not found then
    return 'not_found';
  end if;
  if kept.event ->> 'event' = 'due' then
    update task_executions set due_at = clock_timestamp() - interval '1 second'
    where id = kept.task_execution_id and due_at is not null;
    insert into shard_inbox (shard, event)
    values (kept.shard, jsonb_build_object('type', 'due', 'task_id', kept.task_execution_id));
  elsif kept.event ? 'inbox' then
    insert into shard_inbox (shard, event) values (kept.shard, kept.event -> 'inbox');
  else
    return 'comes_by_itself';
  end if;
  delete from quarantined_events where id = p_id;
  return 'redriven';
end $$;
