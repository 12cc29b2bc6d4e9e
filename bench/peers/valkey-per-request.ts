/**
 * Stock in Valkey, one script call a request, as articles about flash sales do it: check the key, the limit and the counter,
 * decrement, keep the reservation, its expiry and an event. VALKEY_URL names an empty server; memory only.
 */
import { Redis } from 'iovalkey';
import { atEnd, serveFront } from './front.ts';

const stock = Number(process.env.BENCH_STOCK ?? 1_000_000_000);
const holdMs = 600_000;

const library = `#!lua name=bench
server.register_function('reserve', function(keys, args)
  local buyer, key, quantity, now = args[1], args[2], tonumber(args[3]), tonumber(args[4])
  local known = server.call('HGET', keys[2], buyer .. ':' .. key)
  if known then
    return known
  end
  if tonumber(server.call('HGET', keys[3], buyer) or 0) + quantity > 1 then
    return '-limit'
  end
  if tonumber(server.call('GET', keys[1])) < quantity then
    return '-sold-out'
  end
  server.call('DECRBY', keys[1], quantity)
  local id = server.call('XADD', keys[5], '*', 'buyer', buyer, 'key', key, 'quantity', quantity)
  server.call('HSET', keys[2], buyer .. ':' .. key, id)
  server.call('HINCRBY', keys[3], buyer, quantity)
  server.call('ZADD', keys[4], now + ${holdMs}, id)
  return id
end)`;

const url = process.env.VALKEY_URL ?? '';
const redis = url.startsWith('unix://') ? new Redis({ path: url.slice('unix://'.length) }) : new Redis(url);
await redis.flushall();
await redis.call('FUNCTION', 'LOAD', 'REPLACE', library);
await redis.set('stock', stock);

serveFront(({ saleId, buyer, key, lines }, answer) => {
  redis
    .call(
      'FCALL',
      'reserve',
      5,
      'stock',
      'reserved',
      'owned',
      'expiry',
      'events',
      `${saleId}:${buyer}`,
      key,
      lines[0]?.quantity ?? 0,
      Date.now(),
    )
    .then(
      (said) => answer(String(said).startsWith('-') ? 'sold-out' : 'held'),
      () => answer('failed'),
    );
});
atEnd(async () => {
  const left = Number(await redis.get('stock'));
  redis.disconnect();
  return { held: stock - left, stock };
});
