#!lua name=LIBRARY

-- Fenced entries: values that are never served without a change whose fence was applied.
--
-- Every stamp here is a text of fixed width whose order as a string is its order in time (Redis compares strings in Lua
-- by LC_COLLATE; upper-case hexadecimal sorts alike in all of its locales). A change is a point; marks, tokens and the
-- bounds of a value are exclusive: a bound B contains the point P when P < B.
--
--   entry     hash {v = value, l = low bound, h = high bound}: the value contains every change below l, none at or above h
--   fence     string: the newest point that touched a key or a group; it never expires, and so outlives the value
--   progress  hash {offset = next one to read, mark = bound, newest = newest point, ahead = 1 or empty} of one partition;
--             ahead: its source may not show yet what was read
--
-- Each function checks all that could refuse it before its first write, because Redis does not undo a function that fails.

-- The least bound that contains a point: its last eight digits count.
local function after(point)
  local count = tonumber(string.sub(point, -8), 16)
  if count == 0xFFFFFFFF then
    return point -- contains less than it could, which costs a miss
  end
  return string.sub(point, 1, -9) .. string.format('%08X', count + 1)
end

-- The low bound of an entry, or false. What another program left at the key is no entry and goes: its age is unknown.
local function low_of(key)
  local low = redis.pcall('HGET', key, 'l')
  if type(low) == 'table' then
    redis.call('UNLINK', key)
    return false
  end
  return low
end

local function raise(fence, at)
  local stands = redis.call('GET', fence)
  if not stands or stands < at then
    redis.call('SET', fence, at)
  end
end

-- Whether the value is the newest known of its key and was stored.
local function write(key, fence, at, value)
  local stands = redis.call('GET', fence)
  if stands and stands > at then
    return false
  end
  if stands ~= at then
    redis.call('SET', fence, at)
  end
  local low = low_of(key)
  if low and low > at then
    return false -- it contains this change already
  end
  local bound = after(at)
  redis.call('HSET', key, 'v', value, 'l', bound, 'h', bound)
  if low then
    redis.call('PERSIST', key) -- a fill may have left its time to live
  end
  return true
end

-- Whether a value was dropped.
local function invalidate(key, fence, at)
  raise(fence, at)
  local low = low_of(key)
  if low and low <= at then
    redis.call('UNLINK', key)
    return true
  end
  return false
end

-- Makes the changes in their order. Each is a letter and a point, a write also its value; keys hold entry and fence, or
-- the fence alone.
local function change(keys, k, args, a)
  local written, older, dropped = 0, 0, 0
  while a <= #args do
    local kind, at = args[a], args[a + 1]
    if kind == 'W' then
      if write(keys[k], keys[k + 1], at, args[a + 2]) then
        written = written + 1
      else
        older = older + 1
      end
      k, a = k + 2, a + 3
    elseif kind == 'I' then
      if invalidate(keys[k], keys[k + 1], at) then
        dropped = dropped + 1
      end
      k, a = k + 2, a + 2
    else
      raise(keys[k], at)
      k, a = k + 1, a + 2
    end
  end
  return written, older, dropped
end

local function newer(a, b)
  if a > b then return a else return b end
end

local function progress_of(key)
  local stands = redis.call('HMGET', key, 'offset', 'mark', 'newest', 'ahead')
  return stands[1] or '', stands[2] or '', stands[3] or '', stands[4] or ''
end

-- keys: progress, then those of the changes. args: offset, mark, newest, ahead that the batch builds on (empty: none), the
-- same four for when it is applied, then the changes.
-- Returns whether the state contains the batch, the progress that stands now, and how many values were written, were
-- older than what stands, and were dropped.
local function apply(keys, args)
  local offset, mark, newest, ahead = progress_of(keys[1])
  if offset ~= args[1] or mark ~= args[2] or newest ~= args[3] or ahead ~= args[4] then
    -- After an answer that got lost the batch comes again: it is here already if its own progress stands.
    local applied = offset == args[5] and mark == args[6] and newest == args[7] and ahead == args[8]
    return { applied and 1 or 0, offset, mark, newest, ahead, 0, 0, 0 }
  end
  local written, older, dropped = change(keys, 2, args, 9)
  -- Last, so that a function that failed half way is applied again as a whole.
  mark, newest = newer(mark, args[6]), newer(newest, args[7])
  redis.call('HSET', keys[1], 'offset', args[5], 'mark', mark, 'newest', newest, 'ahead', args[8])
  return { 1, args[5], mark, newest, args[8], written, older, dropped }
end

-- The same beside a live worker: the changes alone, compared in the same way, and no progress.
local function replay(keys, args)
  return { change(keys, 1, args, 1) }
end

-- The newest fence among keys[2] to keys[last], empty if there is none.
local function newest_fence(keys, last)
  local newest = ''
  for i = 2, last do
    newest = newer(newest, redis.call('GET', keys[i]) or '')
  end
  return newest
end

-- The least mark of the partitions whose progress stands at keys[first] and later, and the greatest bound that any of
-- them has seen, empty where one is ahead of the source: who reads that now may not find all of it. Nothing where one has no
-- mark: it is not known what that partition still holds.
local function marks(keys, first)
  local least, seen
  local any_ahead = false
  for i = first, #keys do
    local _, mark, newest, ahead = progress_of(keys[i])
    any_ahead = any_ahead or ahead ~= ''
    if mark == '' then
      return nil
    end
    if not least or mark < least then
      least = mark
    end
    seen = newer(seen or '', mark)
    if newest ~= '' then
      seen = newer(seen, after(newest))
    end
  end
  return least, any_ahead and '' or seen
end

-- keys: entry, its fence and those of its groups, progress of every partition that feeds them. args: how many fences, token.
-- Returns 'unready'; or 'hit', mark, low, high, value; or 'miss', mark, seen. A fence that a replay moved further than the
-- partitions were read is not seen yet: whether the source shows that change is known only by its partition.
local function get(keys, args)
  local last_fence = 1 + tonumber(args[1])
  local mark, seen = marks(keys, last_fence + 1)
  if not mark then
    return { 'unready' }
  end
  local fence = newest_fence(keys, last_fence)
  local entry = redis.pcall('HMGET', keys[1], 'v', 'l', 'h')
  local value, low, high = entry[1], entry[2], entry[3]
  if value and low and high and fence < low and (args[2] <= low or args[2] <= mark) then
    return { 'hit', mark, low, high, value }
  end
  return { 'miss', mark, seen }
end

-- keys: as for get. args: how many fences, low, high, time to live in milliseconds (0: none), value. Returns 1 if stored.
local function fill(keys, args)
  local last_fence = 1 + tonumber(args[1])
  local low = args[2]
  if not marks(keys, last_fence + 1) or newest_fence(keys, last_fence) >= low then
    return 0
  end
  local stands = low_of(keys[1])
  if stands and stands >= low then
    return 0
  end
  redis.call('HSET', keys[1], 'v', args[5], 'l', low, 'h', args[3])
  if args[4] ~= '0' then
    redis.call('PEXPIRE', keys[1], args[4])
  else
    redis.call('PERSIST', keys[1])
  end
  return 1
end

redis.register_function('LIBRARY_apply', apply)
redis.register_function('LIBRARY_replay', replay)
redis.register_function('LIBRARY_fill', fill)
redis.register_function({ function_name = 'LIBRARY_get', callback = get, flags = { 'no-writes' } })
