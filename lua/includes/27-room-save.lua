-- Writes what a call has made of a line.

local function write_line(room)
  for lane = 1, #room.weights do
    -- In this order: who comes and is let in by the same call leaves the line after entering it.
    in_chunks('ZADD', room.line_key .. lane, room.enter[lane])
    in_chunks('ZREM', room.line_key .. lane, room.leave[lane])
  end
end

local function write_looks(room)
  for bucket, buyers in pairs(room.looks) do
    local name = string.format('%d', bucket)
    for first = 1, #buyers, LOOKS_AT_ONCE do
      local some = table.concat(buyers, '', first, math.min(first + LOOKS_AT_ONCE - 1, #buyers))
      local element = struct.pack('<I4', room.sale.no) .. some
      if server.call('RPUSH', room.call.prefix .. 'looks:' .. name, element) == 1 then
        server.call('ZADD', room.call.prefix .. 'looks', name, name)
      end
    end
  end
end

-- Writes what a call has changed of a line: the last thing that it does with it. (`save_sale` calls it.)
local function save_room(room)
  assert(room.n.inside >= 0, 'fewer than nobody inside')
  local tickets = {}
  for buyer in pairs(room.changed) do
    local t = room.tickets[buyer]
    tickets[#tickets + 1] = buyer
    tickets[#tickets + 1] =
      struct.pack(TICKET_FORMAT, t.state, t.lane, t.number, t.place, t.joined, t.seen, t.expires)
  end
  in_chunks('HSET', room.tickets_key, tickets)
  in_chunks('HDEL', room.tickets_key, room.forgotten)
  write_line(room)
  write_looks(room)
  local n = room.n
  if room.told[1] or room.told.all then
    n.news = n.news + 1
    local whom = room.told.all and '' or table.concat(room.told)
    server.call('XADD', room.news_key, 'MAXLEN', '~', NEWS_KEPT, string.format('%d-0', n.news), 'b', whom)
  end
  local fields = {}
  for field, value in pairs(n) do
    fields[#fields + 1] = field
    fields[#fields + 1] = string.format('%.17g', value)
  end
  server.call('HSET', room.key, unpack(fields))
end
