--[[
open_shard: makes an empty shard under its first epoch (`expected` 0), or moves it from epoch `expected` to `epoch`.

Called once the epoch has been granted in Postgres. `state` answers what is there then: 0 done, 1 the shard is missing,
2 it is there at another epoch (`found`). Nothing changes in the last two cases.

@flags allow-oom
@header none
@args epoch u32, expected u32, outboxEvents f64, rememberMs f64
@answer state u8, found u32, seq f64
@errors
]]

local function open_shard(keys, args)
  local epoch, expected, outbox_events, remember_ms = struct.unpack('<I4I4dd', args[1])
  local shard = server.call('HMGET', keys[1], 'epoch', 'seq')
  local found = tonumber(shard[1] or 0)
  local seq = tonumber(shard[2] or 0)
  if found ~= expected and found ~= epoch then
    return struct.pack('<BI4d', found == 0 and 1 or 2, found, seq)
  end
  if found == 0 then
    server.call('HSET', keys[1], 'seq', 0, 'at', 0, 'live', 0, 'acked', 0)
  end
  server.call(
    'HSET', keys[1], 'epoch', epoch, 'outbox_events', string.format('%.0f', outbox_events),
    'remember_ms', string.format('%.0f', remember_ms)
  )
  return struct.pack('<BI4d', 0, epoch, seq)
end
