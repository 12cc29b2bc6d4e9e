-- wrk: a unit's whole life: each buyer reserves, then commits, or releases every second time. Arguments: a file with a buyer and a
-- token a line, who come again once all of them were there, the sale, the SKU, what keys begin with.
dofile(os.getenv('BENCH_WRK') .. '/report.lua')

local tokens, token_of, place = {}, {}, 0
local head, body
-- What was told, and who was told it.
local held, first, last = {}, 1, 0
local asked = 0

function init(args)
  for line in io.lines(args[1]) do
    local buyer, token = line:match('^(%S+) (%S+)$')
    tokens[#tokens + 1] = token
    token_of[buyer] = token
  end
  body = '{"saleId":"' .. args[2] .. '","lines":[{"sku":"' .. args[3] .. '","quantity":1}]}'
  head = 'POST /v1/reservations HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: '
    .. #body .. '\r\nIdempotency-Key: ' .. args[4] .. '-'
end

function request()
  if first <= last then
    local one = held[first]
    held[first] = nil
    first = first + 1
    asked = asked + 1
    if asked % 2 == 0 then
      return 'DELETE /v1/reservations/' .. one.id .. ' HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer ' .. one.token
        .. '\r\n\r\n'
    end
    return 'POST /v1/reservations/' .. one.id .. '/commit HTTP/1.1\r\nHost: bench\r\nContent-Length: 0\r\nAuthorization: Bearer '
      .. one.token .. '\r\n\r\n'
  end
  place = place + 1
  local token = tokens[(place - 1) % #tokens + 1]
  return head .. place .. '\r\nAuthorization: Bearer ' .. token .. '\r\n\r\n' .. body
end

function response(status, _, answer)
  if status == 201 then
    last = last + 1
    held[last] = { id = answer:match('"id":"([^"]+)"'), token = token_of[answer:match('"buyerId":"([^"]+)"')] }
  end
end
