--[[
rebuild_begin: fences the shard for the rebuild `token`: from now on nothing but this rebuild's calls may touch it.

Answers what is there: the epoch at which it was sold from (0: nothing is there, or an interrupted rebuild's beginnings) and
the last sequence. The outbox stays, for rebuild_read, until rebuild_clear; so does the epoch, as `was`.

@flags allow-oom
@header none
@args token c12
@answer epoch u32, seq f64
@errors
]]

local function rebuild_begin(keys, args)
  local shard = server.call('HMGET', keys[1], 'epoch', 'seq', 'was')
  local epoch = tonumber(shard[1] or 0)
  if epoch == 0 then
    epoch = tonumber(shard[3] or 0)
  end
  server.call('HSET', keys[1], 'building', args[1], 'epoch', 0, 'was', epoch)
  return struct.pack('<I4d', epoch, tonumber(shard[2] or 0))
end
