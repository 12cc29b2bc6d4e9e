--[[
rebuild_finish: opens the rebuilt shard at `epoch`, after sequence `seq`, which the ledger has.

@flags
@header none
@args token c12, epoch u32, seq f64, at f64, live f64, outboxEvents f64, rememberMs f64
@answer status u8
@errors FENCED
]]

local function rebuild_finish(keys, args)
  local token, epoch, seq, at, live, outbox_events, remember_ms = struct.unpack('<c12I4ddddd', args[1])
  local err = check_rebuild(keys[1], token)
  if err then
    return err
  end
  local text = function(number)
    return string.format('%.0f', number)
  end
  server.call(
    'HSET', keys[1], 'epoch', epoch, 'seq', text(seq), 'acked', text(seq), 'at', text(at), 'live', text(live),
    'outbox_events', text(outbox_events), 'remember_ms', text(remember_ms)
  )
  server.call('HDEL', keys[1], 'building')
  return struct.pack('<B', STATUS.ok)
end
