-- Breaks: a ledger of an earlier release writes nothing more (it tries again until it is replaced), nor does its `reconcile` read.
-- An entry is one for all sequences from the first to the last that move the same units of one allotment: of a hot sale's
-- thousand reservations one row was like the other. Sequences of a line don't overlap.
alter table ledger.entry rename column seq to seq_first;
alter table ledger.entry add column seq_last bigint;
update ledger.entry set seq_last = seq_first;
alter table ledger.entry alter column seq_last set not null, add check (seq_first <= seq_last);
alter table ledger.entry drop constraint entry_pkey, add primary key (shard, seq_last, line);
comment on column ledger.entry.units is 'of each of its sequences';
