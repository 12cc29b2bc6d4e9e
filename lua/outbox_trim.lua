--[[
outbox_trim: notes that the ledger has everything up to `acked`, and drops what it has, less the
last `keep` events, kept for the day when Postgres comes back a little older.

@flags allow-oom
@args acked f64, keep u32
@answer seq f64, acked f64
@errors FENCED, LATE
]]

local function outbox_trim(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local acked, keep = struct.unpack('<dI4', args[1], HEADER_BYTES + 1)
  if acked > call.seq then
    return server.error_reply('FENCED the ledger is ahead of the shard, which is at ' .. string.format('%.0f', call.seq))
  end
  if acked > call.acked then
    call.acked = acked
    server.call('HSET', call.key, 'acked', string.format('%.0f', acked))
    if acked > keep then
      server.call('XTRIM', call.prefix .. 'outbox', 'MINID', '~', string.format('%.0f-0', acked - keep))
    end
  end
  return struct.pack('<dd', call.seq, call.acked)
end
