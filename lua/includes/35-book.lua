-- The book: what the sale remembers of its buyers. An entry a buyer: units held and owned, how many of them are bought, how
-- many other reservations of the buyer the book has, and one reservation whole, after its key. Most buyers have but one,
-- so most are read and written as one field; the others stand under buyer..key.
local BUYER = '<I6I6I4'
local BUYER_BYTES = 16

local function unpack_buyer(entry)
  if not entry then
    return 0, 0, 0, '', ''
  end
  local units, bought, others = struct.unpack(BUYER, entry)
  return units, bought, others, string.sub(entry, BUYER_BYTES + 1, BUYER_BYTES + 12), string.sub(entry, BUYER_BYTES + 13)
end

-- Whether the buyer's one reservation that stands in the entry itself is of this key. (Each text cut out of another is a new
-- one, and costs a hash of it.)
local function is_own(entry, key)
  return string.find(entry, key, BUYER_BYTES + 1, true) == BUYER_BYTES + 1
end

-- Reads buyers' entries, and their reservations by these keys: buyers[i] with keys[i].
local function load_book(sale, buyers, keys)
  local book, fields = sale.book, {}
  for first = 1, #buyers, CHUNK do
    local last = math.min(first + CHUNK - 1, #buyers)
    local found = server.call('HMGET', sale.book_key, unpack(buyers, first, last))
    for i = first, last do
      local entry = found[i - first + 1]
      if entry then
        local buyer, key = buyers[i], keys[i]
        book[buyer] = entry
        if not is_own(entry, key) then
          local _, _, others = struct.unpack(BUYER, entry)
          if others > 0 then
            fields[#fields + 1] = buyer .. key
          end
        end
      end
    end
  end
  get_fields(sale.book_key, fields, book)
end

-- A reservation's record, of those that load_book has read; nil where there is none.
local function find_record(sale, buyer, key)
  local entry = sale.book[buyer]
  if not entry then
    return nil
  end
  return is_own(entry, key) and string.sub(entry, BUYER_BYTES + 13) or sale.book[buyer .. key] or nil
end

local function put_book(sale, field, value)
  sale.book[field] = value
  if value then
    local put = sale.put
    local n = #put
    put[n + 1] = field
    put[n + 2] = value
  else
    sale.gone[#sale.gone + 1] = field
  end
end

-- Changes a buyer's units, and the record of the reservation `key`: its new one, false to forget it, nil to leave all.
local function change_buyer(sale, buyer, more_units, more_bought, key, record)
  local entry = sale.book[buyer]
  if entry and record and is_own(entry, key) then
    local units, bought, others = struct.unpack(BUYER, entry)
    units, bought = units + more_units, bought + more_bought
    assert(units >= bought and bought >= 0, 'a buyer below zero')
    put_book(sale, buyer, struct.pack(BUYER, units, bought, others) .. key .. record)
    return
  end
  local units, bought, others, own_key, own = unpack_buyer(entry)
  units, bought = units + more_units, bought + more_bought
  assert(units >= bought and bought >= 0, 'a buyer below zero')
  if key == own_key then
    own_key, own = record and key or '', record or ''
  elseif key then
    local field = buyer .. key
    local known = sale.book[field]
    if record and not known and own_key == '' then
      own_key, own = key, record
    elseif record or known then
      put_book(sale, field, record)
      others = others + (record and 1 or 0) - (known and 1 or 0)
    end
  end
  if units == 0 and others == 0 and own_key == '' then
    put_book(sale, buyer, false)
  else
    put_book(sale, buyer, struct.pack(BUYER, units, bought, others) .. own_key .. own)
  end
end
