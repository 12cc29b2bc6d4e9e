-- Breaks: nothing. What an operator did to a ticket is kept with its reason.
alter table ledger.audit add column detail jsonb;
