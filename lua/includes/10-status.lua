-- How one request of a call ended. The generated bindings take these names and numbers from here.
local STATUS = {
  ok = 0,
  replay = 1, -- the same request was answered before; the first answer follows
  mismatch = 2, -- the same key with another body
  unknown_sale = 3,
  unknown_sku = 4,
  sale_not_open = 5,
  purchase_limit = 6,
  sold_out = 7,
  insufficient_stock = 8,
  overloaded = 9, -- the outbox has no room for this hold and for the endings of all that live
  unknown_reservation = 10,
  ended = 11, -- the reservation ended otherwise; its state follows
  not_allowed = 12, -- the sale's rules don't allow it (extensions used up, longer than allowed)
  conflict = 13, -- it exists otherwise
  too_many = 14, -- a limit of the format (units of an allotment, sales of a shard)
  not_admitted = 15, -- the sale has a waiting room, and the buyer's ticket does not let the buyer in now
  unknown_ticket = 16,
  changed = 17, -- the sale is not as its caller has seen it
}
local RESERVATION = { held = 1, committed = 2, released = 3, expired = 4 }
local SALE = { open = 1, paused = 2, closed = 3 }
local ORDER = { fifo = 1, shuffle = 2, pass = 3, closed = 4 }
local ROOM = { open = 1, paused = 2, closed = 3 }
local TICKET = { waiting = 1, admitted = 2, used = 3, lapsed = 4, left = 5, expelled = 6 }
-- Why those who wait have nothing to wait for: all is sold and nothing can come back, or the sale or its line is closed.
local ENDED = { sold_out = 1, closed = 2 }
local DRAW = { none = 0, drawing = 1, done = 2 }
-- What somebody does to a ticket; an operator who looks at it is not its owner being there.
local ACTION = { leave = 1, expel = 2, admit = 3, move = 4, look = 5 }
local FACT = {
  reserved = 1,
  extended = 2,
  committed = 3,
  released = 4,
  expired = 5,
  returned = 6,
  restocked = 7,
  adjusted = 8,
  sale_set = 9,
  sale_state = 10,
}
