--[[
shard_status: the shard's time, sequence and how much is waiting.

@flags no-writes
@args
@answer now f64, seq f64, acked f64, waitingSince f64, live f64, outboxEvents f64
@errors FENCED, LATE
]]

local function shard_status(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  return struct.pack('<dddddd', call.now, call.seq, call.acked, waiting_since(call), call.live, call.outbox_events)
end
