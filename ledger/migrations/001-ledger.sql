-- Breaks: nothing; the first of the ledger's migrations.

-- What was decided when the ledger was begun: one row.
create table ledger.deployment (
  one boolean primary key default true check (one),
  shards int not null check (shards >= 1),
  name text not null default substr(md5(random()::text || clock_timestamp()::text), 1, 8) -- of its topic and group
);

-- Who may sell from a shard (epoch, run of Valkey), and up to where its events are in the ledger.
create table ledger.shard (
  shard int primary key check (shard >= 0),
  epoch int not null check (epoch >= 1),
  run_id text not null,
  opened boolean not null default false,
  watermark bigint not null default 0 check (watermark >= 0),
  watermark_at timestamptz,
  stopped text, -- why no more of its events are applied; null while all is well
  rebuilding text, -- the rebuild that is under way, or was when it was interrupted; nothing is sold then
  -- A rebuild closes the epochs before its own at a sequence: what they have beyond it is no longer history.
  closed_epoch int not null default 0,
  closed_seq bigint not null default 0
);

-- What engines have seen of a shard, once a second and when they lose it: a run of Valkey that has less must not sell.
create table ledger.sighting (
  engine text not null,
  shard int not null,
  epoch int not null,
  run_id text not null, -- the run of Valkey that it is connected to
  seq bigint not null,
  open boolean not null, -- whether it may still get answers of this epoch
  at timestamptz not null default now(),
  primary key (engine, shard)
);

-- What each rebuild reported.
create table ledger.rebuild (
  shard int not null,
  epoch int not null,
  report jsonb not null,
  at timestamptz not null default now(), -- when the old epoch was closed
  finished_at timestamptz,
  primary key (shard, epoch)
);

-- Batches that are no history: of a closed epoch, come after it was closed, or one that stopped its shard. Kept to be
-- looked at. As text, since what stops a shard may be what jsonb can't hold.
create table ledger.quarantine (
  shard int not null,
  epoch int not null,
  seq_first bigint not null,
  seq_last bigint not null,
  digest text not null,
  reason text not null,
  batch text not null,
  at timestamptz not null default now(),
  primary key (shard, epoch, seq_last, digest)
);

-- The journal: every entry of a shard's outbox, once, in order. A known range with another digest is a fork.
create table ledger.batch (
  shard int not null,
  seq_last bigint not null,
  seq_first bigint not null,
  epoch int not null,
  at timestamptz not null,
  digest text not null,
  primary key (shard, seq_last),
  check (seq_first <= seq_last)
);

create table ledger.sale (
  shard int not null,
  sale int not null,
  id text not null unique,
  settings jsonb not null,
  stock_digest text not null, -- of the opening stock, as the engine compares it
  state text not null default 'open',
  primary key (shard, sale)
);

-- Supply is what ever came in, less what went out; every unit of it is in exactly one of the three accounts.
create table ledger.balance (
  shard int not null,
  sale int not null,
  sku text not null,
  warehouse text not null,
  supply bigint not null default 0,
  available bigint not null default 0,
  reserved bigint not null default 0,
  sold bigint not null default 0,
  opened_seq bigint not null, -- warehouses serve in this order
  primary key (shard, sale, sku, warehouse),
  constraint available_not_negative check (available >= 0),
  constraint reserved_not_negative check (reserved >= 0),
  constraint sold_not_negative check (sold >= 0),
  constraint supply_adds_up check (supply = available + reserved + sold)
);

-- Double entries: each moves units from one account to another. 'outside' is where supply comes from and goes to.
create table ledger.entry (
  shard int not null,
  seq bigint not null,
  line int not null,
  sale int not null,
  sku text not null,
  warehouse text not null,
  debit text not null,
  credit text not null,
  units bigint not null check (units > 0),
  primary key (shard, seq, line),
  check (debit <> credit),
  check (debit in ('outside', 'available', 'reserved', 'sold')),
  check (credit in ('outside', 'available', 'reserved', 'sold'))
);

-- Compensating entries, by `stampede repair`: beside the shard's own history, which they don't change.
create table ledger.correction (
  shard int not null,
  sale int not null,
  sku text not null,
  warehouse text not null,
  id text not null,
  line int not null,
  as_of_seq bigint not null, -- at which sequence Valkey and the ledger were compared
  debit text not null,
  credit text not null,
  units bigint not null check (units > 0),
  at timestamptz not null default now(),
  primary key (shard, sale, sku, warehouse, id, line),
  check (debit <> credit)
);

-- Reservations as they stand; each is reserved once and ends at most once.
create table ledger.reservation (
  shard int not null,
  seq bigint not null,
  sale int not null,
  buyer text not null,
  key text not null,
  state text not null check (state in ('held', 'committed', 'released', 'expired')),
  lines jsonb not null,
  durability text not null,
  first_expires_at timestamptz not null,
  expires_at timestamptz not null,
  reserved_at timestamptz not null,
  ended_at timestamptz,
  ended_seq bigint,
  units int not null check (units > 0),
  extensions int not null default 0,
  returned int not null default 0, -- units of it that came back after it was committed
  primary key (shard, seq),
  check (returned between 0 and units),
  check (returned = 0 or state = 'committed'),
  check ((state = 'held') = (ended_at is null))
);

-- Stock adjustments and returns, once per id.
create table ledger.stock_change (
  shard int not null,
  seq bigint not null,
  sale int not null,
  kind text not null,
  id text not null,
  content jsonb not null, -- what the id stands for
  at timestamptz not null,
  primary key (shard, seq)
);

-- What operators did.
create table ledger.audit (
  id bigint generated always as identity primary key,
  at timestamptz not null default now(),
  action text not null,
  sale_id text not null,
  request_id text not null,
  address text not null
);
