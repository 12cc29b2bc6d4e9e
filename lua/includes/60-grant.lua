-- Granting, for reserve: what requests that follow one another have in common is made once. Measured in
-- docs/explanation/performance.md.

local function result(status, ref)
  return struct.pack('<BH', status, ref)
end

-- Adds a grant to the answer; returns the number by which results name it.
local function add_grant(call, seq, expires_at, durability, lines)
  local grants = call.grants
  grants[#grants + 1] = struct.pack('<ddBI4c0', seq, expires_at, durability, #lines, lines)
  return #grants - 1
end

-- A record up to the last byte of its sequence.
local function record_head(seq)
  return string.sub(struct.pack('<B>I6', RESERVATION.held, seq), 1, 6)
end

-- A run: requests that follow one another, all granted with the same lines. What they have in common is packed once, and
-- they are one piece of the outbox and of the due list.
local function run_for(call, i, basket, lines)
  local run, sale = call.run, basket.sale
  if run and run.last == i - 1 and run.lines == lines and run.sale == sale then
    run.last = i
    return run
  end
  local expires_at = call.now + sale.hold_ms
  run = {
    sale = sale,
    lines = lines,
    expires_at = expires_at,
    first = i,
    last = i,
    result = result(STATUS.ok, add_grant(call, call.seq + 1, expires_at, sale.durability, lines)),
    tail = struct.pack('<dI4BB', expires_at, 0, sale.durability, 0) .. lines, -- of a record, after the sequence
  }
  call.runs[#call.runs + 1] = run
  call.run = run
  return run
end

local function end_runs(call)
  for i = 1, #call.runs do
    local run = call.runs[i]
    local sale, lines = run.sale, run.lines
    local buyers = table.concat(call.buyers, '', run.first, run.last)
    local keys = table.concat(call.keys, '', run.first, run.last)
    call.facts[#call.facts + 1] = struct.pack(
      '<BI4dBI4c0H', FACT.reserved, sale.no, run.expires_at, sale.durability, #lines, lines, run.last - run.first + 1
    ) .. buyers .. keys
    sale.used = true
    add_due(call, sale, run.expires_at, buyers, keys)
  end
end

local function grant(call, i, basket, lines)
  local run = run_for(call, i, basket, lines)
  local seq = call.seq + 1
  call.seq, call.live, call.room = seq, call.live + 1, call.room - 1
  local record = record_head(seq) .. call.bytes[seq % 256] .. run.tail
  change_buyer(basket.sale, call.buyers[i], basket.units, 0, call.keys[i], record)
  return run.result
end

-- Grants the requests after `i`, while they differ from it in nothing but a buyer of whom the book knows nothing: what has
-- let `i` pass lets them pass, as long as its warehouse lasts. This is nearly all of a hot sale, and a third of what
-- deciding each costs. Returns the last one granted.
local function grant_alike(call, i, basket, w)
  local run, bytes, seq = call.run, call.bytes, call.seq
  local wanted, buyers, keys, results = call.wanted, call.buyers, call.keys, call.results
  local book, put, units, this = basket.sale.book, basket.sale.put, basket.units, wanted[i]
  local fresh, head, tail, granted = struct.pack(BUYER, units, 0, 0), record_head(seq), run.tail, run.result
  local left = math.min(math.floor((w.on_hand - w.reserved) / units), call.room)
  local at, last = #put, i
  while left > 0 do
    local following = last + 1
    local buyer = buyers[following]
    if wanted[following] ~= this or book[buyer] then
      break
    end
    seq = seq + 1
    local last_byte = seq % 256
    if last_byte == 0 then
      head = record_head(seq)
    end
    local value = fresh .. keys[following] .. head .. bytes[last_byte] .. tail
    put[at + 1] = buyer
    at = at + 2
    put[at] = value
    book[buyer] = value
    results[following] = granted
    left = left - 1
    last = following
  end
  local count = last - i
  call.seq, call.live, call.room = seq, call.live + count, call.room - count
  w.reserved = w.reserved + count * units
  basket[1].available = basket[1].available - count * units
  run.last = last
  return last
end
