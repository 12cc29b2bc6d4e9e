-- Rebuilding a shard from the ledger. While `building` names a rebuild the shard's epoch is 0, so that every other call is
-- fenced; a second rebuild that begins takes over, and what the first still sends is refused.
local function check_rebuild(key, token)
  check_slot(string.sub(key, 1, -6))
  if server.call('HGET', key, 'building') ~= token then
    return server.error_reply('FENCED another rebuild of the shard has begun')
  end
  return nil
end

-- A sale as rebuild's calls see it.
local function rebuilt_sale(key, no)
  return load_sale({ prefix = string.sub(key, 1, -6), sales = {} }, no)
end
