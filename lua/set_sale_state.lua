--[[
set_sale_state: pauses, resumes or closes a sale. State: 1 open, 2 paused, 3 closed. Setting it again changes nothing.

@flags allow-oom
@args sale u32, state u8
@answer status u8
@errors FENCED, LATE
]]

local function set_sale_state(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local no, state = struct.unpack('<I4B', args[1], HEADER_BYTES + 1)
  local sale = load_sale(call, no)
  if not sale then
    return struct.pack('<B', STATUS.unknown_sale)
  end
  if sale.state == SALE.closed and state ~= SALE.closed then
    return struct.pack('<B', STATUS.not_allowed)
  end
  if sale.state == state then
    return struct.pack('<B', STATUS.replay)
  end
  server.call('HSET', call.prefix .. 'sale:' .. string.format('%d', no), 'state', state)
  add_fact(call, FACT.sale_state, sale, NOBODY, NOBODY, 0, 0, sale.durability, '', string.format('%d', state))
  close_call(call)
  return struct.pack('<B', STATUS.ok)
end
