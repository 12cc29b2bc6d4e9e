--[[
replicate: writes that the shard is where its caller has seen it, so that WAITAOF on the same connection waits for all of
it. (On a connection that has written nothing it answers at once. See docs/decisions/0007.)

@flags allow-oom
@args
@answer now f64, seq f64
@errors FENCED, LATE
]]

local function replicate(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  close_call(call)
  return struct.pack('<dd', call.now, call.seq)
end
