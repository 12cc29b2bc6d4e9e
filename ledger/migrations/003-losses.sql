-- Breaks: nothing. Engines of an earlier release note no losses.
-- What engines had seen beyond the end of an epoch, and told when the next had begun: an engine that could not be heard by then
-- (frozen, cut off) may have told buyers of it, and no history has it. Beyond what a rebuild has reported.
create table ledger.loss (
  shard int not null,
  epoch int not null,
  engine text not null,
  seq_first bigint not null,
  seq_last bigint not null,
  at timestamptz not null default now(),
  primary key (shard, epoch, engine)
);
