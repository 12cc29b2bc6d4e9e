-- Breaks: nothing. Engines of an earlier release can still read and write; they note no grants.
-- Every epoch that engines were granted: to which run of Valkey, and after which sequence it begins there. What a Valkey of an
-- earlier epoch has beyond that is another history.
create table ledger.epoch_grant (
  shard int not null,
  epoch int not null,
  run_id text not null,
  seq bigint not null,
  at timestamptz not null default now(),
  primary key (shard, epoch)
);

-- An engine numbers its reports: one that hung on its way must not take back what a newer one said.
alter table ledger.sighting add column report bigint not null default 0;
