--[[
shard_status: the shard's time, sequence and how much is waiting.

@flags no-writes
@args
@answer now f64, seq f64, at f64, acked f64, ackedAt f64, live f64, outboxEvents f64
@errors FENCED, LATE
]]

local function shard_status(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local shard = server.call('HMGET', call.key, 'at', 'acked_at')
  return struct.pack(
    '<ddddddd', call.now, call.seq, tonumber(shard[1]), call.acked, tonumber(shard[2]), call.live, call.outbox_events
  )
end
