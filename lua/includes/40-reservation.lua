-- A reservation as it stands in a sale's book, and how it ends.
--
-- Record: state, sequence, expiry as first answered, seconds by which it was extended, durability, extensions used; once
-- it has ended, when it is forgotten; lines.

-- The sequence is big-endian, so that those of neighbours differ in the last byte (reserve.lua).
local RECORD = '<B>I6<dI4BB'
local RECORD_BYTES = 21

local function pack_record(r)
  local head = struct.pack(RECORD, r.state, r.seq, r.expires_at, r.extended, r.durability, r.extensions)
  if r.state == RESERVATION.held then
    return head .. r.lines
  end
  return head .. struct.pack('<d', r.forget_at) .. r.lines
end

local function unpack_record(packed)
  local state, seq, expires_at, extended, durability, extensions, pos = struct.unpack(RECORD, packed)
  local forget_at = false
  if state ~= RESERVATION.held then
    forget_at, pos = struct.unpack('<d', packed, pos)
  end
  -- Made with all its fields: a table that grows by one at a time is made anew four times.
  return {
    state = state,
    seq = seq,
    expires_at = expires_at,
    extended = extended,
    durability = durability,
    extensions = extensions,
    forget_at = forget_at,
    lines = string.sub(packed, pos),
  }
end

-- The lines alone. Of a million reservations that end together most have the same.
local function lines_of(packed)
  local held = string.byte(packed) == RESERVATION.held
  return string.sub(packed, RECORD_BYTES + (held and 1 or 9))
end

-- When the hold ends (or would have), extensions included.
local function hold_end(r)
  return r.expires_at + r.extended * 1000
end

-- How a reservation is answered: status, state, expiry, durability, lines.
local OUTCOME = '<BBdBI4c0'
local function outcome(status, state, r)
  return struct.pack(OUTCOME, status, state, hold_end(r), r.durability, #r.lines, r.lines)
end
local function no_outcome()
  return struct.pack('<BBdBI4', STATUS.unknown_reservation, 0, 0, 0, 0)
end

-- What lines name, worked out once a call: nearly all reservations that end together have the same. Their stock has been read.
local function parts_of(sale, lines)
  local parts = sale.parts[lines]
  if not parts then
    parts = { fact_tail = struct.pack('<I4c0H', #lines, lines, 0) }
    parts.units = each_line(lines, function(sku, warehouse, quantity)
      local item = sale.items[sku]
      sale.dirty_items[item] = true
      parts[#parts + 1] = { item = item, warehouse = find_warehouse(item, warehouse), quantity = quantity }
    end)
    sale.parts[lines] = parts
  end
  return parts
end

-- Ends a live reservation as `state`: counters, buyer's units, record and fact. A committed one's units stay the
-- buyer's; the others' go back on sale.
local function end_reservation(call, sale, buyer, key, r, state, kind)
  local sold = state == RESERVATION.committed
  local parts = parts_of(sale, r.lines)
  for i = 1, #parts do
    local part = parts[i]
    local w, quantity = part.warehouse, part.quantity
    w.reserved = w.reserved - quantity
    if sold then
      w.on_hand = w.on_hand - quantity
      w.sold = w.sold + quantity
    else
      part.item.available = part.item.available + quantity
    end
  end
  local head = struct.pack(FACT_HEAD, kind, sale.no, buyer, key, r.seq, 0, r.durability)
  append_fact(call, sale, head .. parts.fact_tail)
  r.state = state
  r.forget_at = call.now + call.remember_ms
  local units = parts.units
  change_buyer(sale, buyer, sold and 0 or -units, sold and units or 0, key, pack_record(r))
  local ended = #sale.ended_buyers + 1
  sale.ended_buyers[ended], sale.ended_keys[ended] = buyer, key
  call.live = call.live - 1
  local room = open_room(call, sale)
  if room then
    local how = sold and 'bought' or 'back'
    room.n[how] = room.n[how] + 1
  end
end

-- Reads the records of buyers[i] with keys[i], their buyers' units, and the stock of all their lines.
local function load_reservations(sale, buyers, keys)
  load_book(sale, buyers, keys)
  local skus, seen = {}, {}
  for i = 1, #buyers do
    local packed = find_record(sale, buyers[i], keys[i])
    local lines = packed and lines_of(packed)
    if lines and not seen[lines] then
      seen[lines] = true
      each_line(lines, function(sku)
        skus[#skus + 1] = sku
      end)
    end
  end
  load_items(sale, skus)
end

-- What a held reservation past its time reads as, swept or not.
local function state_now(call, r)
  if r.state == RESERVATION.held and call.now >= hold_end(r) then
    return RESERVATION.expired
  end
  return r.state
end

-- The frame of commit, release and extend: a list of references in, a list of outcomes out, each decided by
-- decide(call, sale, record, reference) -> status. References of one call may name the same reservation.
local REFERENCE = '<I4c12c12dd' -- sale, buyer, key, sequence, seconds (extend)
local function read_references(call, arg)
  local n, pos = struct.unpack('<H', arg, HEADER_BYTES + 1)
  local refs, named = {}, {}
  for i = 1, n do
    local ref = {}
    ref.sale, ref.buyer, ref.key, ref.seq, ref.seconds, pos = struct.unpack(REFERENCE, arg, pos)
    refs[i] = ref
    if load_sale(call, ref.sale) then
      local of = named[ref.sale]
      if not of then
        of = { buyers = {}, keys = {} }
        named[ref.sale] = of
      end
      of.buyers[#of.buyers + 1] = ref.buyer
      of.keys[#of.keys + 1] = ref.key
    end
  end
  return refs, named
end

-- The record that a reference means, unpacked; nil where there is none.
local function find_reference(call, ref)
  local sale = call.sales[ref.sale]
  local packed = sale and find_record(sale, ref.buyer, ref.key)
  local r = packed and unpack_record(packed)
  return r and r.seq == ref.seq and r or nil
end

local function settle(keys, args, decide)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local refs, named = read_references(call, args[1])
  for no, of in pairs(named) do
    load_reservations(call.sales[no], of.buyers, of.keys)
  end
  local results = {}
  for i = 1, #refs do
    local ref = refs[i]
    local r = find_reference(call, ref)
    if r then
      local status = decide(call, call.sales[ref.sale], r, ref)
      results[i] = outcome(status, state_now(call, r), r)
    else
      results[i] = no_outcome()
    end
  end
  for _, sale in pairs(call.sales) do
    save_sale(sale)
  end
  close_call(call)
  return struct.pack('<ddH', call.now, call.seq, #refs) .. table.concat(results)
end
