"""Lua that reads: rows, indexes and progress of one instant, in one round trip. Nothing here writes.

KEYS name the pointers and the progress of the entities that are read. The keys of rows, and the sorted sets that
ARGV names, share their hash tag (see keys.py), as Redis Cluster asks.
"""

from __future__ import annotations

CATALOG = """
-- KEYS: definitions, current. ARGV: what the keys of pointers begin with.
local current = redis.call('HGETALL', KEYS[2])
local pointers = {}
for i = 1, #current, 2 do
  local pointer = redis.call('GET', ARGV[1] .. current[i])
  if pointer then
    pointers[#pointers + 1] = current[i]
    pointers[#pointers + 1] = pointer
  end
end
return {redis.call('HGETALL', KEYS[1]), current, pointers}
"""
"""Three flat lists of names and values: definitions, current builds, pointers."""

_COMMON = """
-- KEYS: of each space its pointer, then the progress of each of its partitions.
-- ARGV is taken from its start to its end. First of all, of each space: the pointer as the caller knows it, how many
-- partitions there are, and what the keys of its rows begin with.
local taken, opened = 0, 0

local function take()
  taken = taken + 1
  return ARGV[taken]
end

local function number() return tonumber(take()) end

local function open()
  local known, partitions, rows_at = take(), number(), take()
  local space = {rows_at = rows_at, progress = {}, epochs = {}}
  space.pointer = redis.call('GET', KEYS[opened + 1]) or ''
  space.is_known = space.pointer == known
  for i = 1, partitions do
    local one = redis.call('GET', KEYS[opened + 1 + i])
    space.progress[i] = one or ''
    space.epochs[tostring(i - 1)] = one and cjson.decode(one).epoch or 0
  end
  opened = opened + 1 + partitions
  return space
end

-- Sorted sets, and what stands before a key in them.
local function take_filters()
  local filters = {}
  for i = 1, number() do filters[i] = {take(), take()} end
  return filters
end

local function passes(filters, key)
  for _, filter in ipairs(filters) do
    if not redis.call('ZSCORE', filter[1], filter[2] .. key) then return false end
  end
  return true
end

local function is_live(space, row)
  local partition, epoch = string.match(row, '^(%d+)%.(%d+)%.')
  return tonumber(epoch) >= (space.epochs[partition] or 0)
end

local function size_of(row)
  return #row - string.find(row, '|', 1, true)
end

local function key_of(member)
  local nul = string.find(member, '\\0', 1, true)
  return nul and string.sub(member, nul + 1) or member
end

-- The rows of these members' keys that pass, by member.
local function rows_of(space, filters, members)
  local wanted, kept = {}, {}
  for _, member in ipairs(members) do
    local key = key_of(member)
    if passes(filters, key) then
      wanted[#wanted + 1] = space.rows_at .. key
      kept[#wanted] = member
    end
  end
  local rows = #wanted > 0 and redis.call('MGET', unpack(wanted)) or {}
  local found = {}
  for i, member in ipairs(kept) do found[member] = rows[i] end
  return found
end

-- A flat list of members and rows of a sorted set, and the member at which looking ended before the end.
local function walk(space, command, set, from, to, filters, most_rows, most_bytes, most_entries)
  local found, bytes, looked = {}, 0, 0
  while true do
    local chunk = math.min(most_rows, 250)
    local members = redis.call(command, set, from, to, 'LIMIT', 0, chunk)
    local rows = rows_of(space, filters, members)
    for _, member in ipairs(members) do
      local row = rows[member]
      looked = looked + 1
      if row and is_live(space, row) then
        found[#found + 1] = member
        found[#found + 1] = row
        bytes = bytes + size_of(row)
      end
      local count = #found / 2
      if count >= most_rows or looked >= most_entries or (bytes > most_bytes and count > 1) then
        return found, member
      end
    end
    if #members < chunk then return found, '' end
    from = '(' .. members[#members]
  end
end
"""

SCAN = (
    _COMMON
    + """
-- ARGV goes on: filters, the command, most rows, bytes and entries to look at, how many sets, and of each its name
-- and bounds.
local space = open()
if not space.is_known then return {space.pointer} end
local filters = take_filters()
local command, most_rows, most_bytes, most_entries = take(), number(), number(), number()
local scans = {}
for i = 1, number() do
  local found, stopped = walk(space, command, take(), take(), take(), filters, most_rows, most_bytes, most_entries)
  scans[i] = {stopped, found}
end
return {space.pointer, space.progress, scans}
"""
)
"""The pointer alone when it is another. Else pointer, progress, and of each set the member at which the walk
stopped (empty at the end) and a flat list of members and packed rows."""

JOIN = (
    _COMMON
    + """
-- ARGV begins with how many spaces there are, the rows' own first. It goes on: most bytes, filters, whether rows are
-- asked for by `keys` or by `sets`, most rows, how many, and the keys, or names and bounds of the sets; then how many
-- relations, and of each its space, whether its leads are made of the `own` key or `kept`, what stands before the key
-- or in which set, whether the lead is a `key` or names a `set`, what its name begins with, the command and its
-- bounds, most rows, and filters.
local spaces, pointers, is_known = {}, {}, true
for i = 1, number() do
  spaces[i] = open()
  pointers[i] = spaces[i].pointer
  is_known = is_known and spaces[i].is_known
end
if not is_known then return {pointers} end
local left, any = number(), math.huge

local function read(space, filters, keys, add)
  for start = 1, #keys, 250 do
    local chunk = {}
    for i = start, math.min(start + 249, #keys) do chunk[#chunk + 1] = keys[i] end
    local rows = rows_of(space, filters, chunk)
    for _, key in ipairs(chunk) do
      local row, was_over = rows[key], left < 0
      if row and is_live(space, row) then
        add(key, row)
        if was_over then return end
      end
    end
  end
end

local sources, source_rows, source_filters = {}, {}, take_filters()
local function add_source(key, row)
  sources[#sources + 1] = key
  source_rows[#source_rows + 1] = key
  source_rows[#source_rows + 1] = row
  left = left - size_of(row)
end

local by, most_rows = take(), number()
local within = any
if by == 'keys' then
  local keys = {}
  for i = 1, number() do keys[i] = take() end
  read(spaces[1], source_filters, keys, add_source)
else
  within = most_rows - 1
  local keys, rows = {}, {}
  for _ = 1, number() do
    local found = walk(spaces[1], 'ZRANGEBYLEX', take(), take(), take(), source_filters, most_rows, left, any)
    for i = 1, #found, 2 do
      local key = key_of(found[i])
      if not rows[key] then
        keys[#keys + 1] = key
        rows[key] = found[i + 1]
      end
    end
  end
  table.sort(keys)
  for i = 1, math.min(#keys, most_rows) do
    local was_over = left < 0
    add_source(keys[i], rows[keys[i]])
    if was_over then break end
  end
end

local function lead_of(form, at, key)
  if form == 'own' then return at .. key end
  local found = redis.call('ZRANGEBYLEX', at, '[' .. key .. '\\0', '(' .. key .. '\\1', 'LIMIT', 0, 1)
  return found[1] and string.sub(found[1], #key + 2) or ''
end

local related = {}
for i = 1, number() do
  local space, form, at, kind, begins, command = spaces[number()], take(), take(), take(), take(), take()
  local from, to, most, filters = take(), take(), number(), take_filters()
  local groups = {}
  for j = 1, math.min(#sources, within) do
    if left < 0 then break end
    local lead, found = lead_of(form, at, sources[j]), {}
    if lead ~= '' and kind == 'key' then
      read(space, filters, {lead}, function(key, row) found = {key, row} end)
    elseif lead ~= '' then
      found = walk(space, command, begins .. lead, from, to, filters, most, left, any)
    end
    for k = 2, #found, 2 do left = left - size_of(found[k]) end
    groups[j] = found
  end
  related[i] = groups
end

local progress = {}
for i, space in ipairs(spaces) do progress[i] = space.progress end
return {pointers, progress, source_rows, related}
"""
)
"""The pointers alone when any is another. Else pointers, progress of each space, a flat list of keys and packed rows,
and of each relation, for each of the rows within the limit, a flat list of members and packed rows. Once more than
most bytes of JSON are read, the rest is left out, but for one more row where those are the rows asked for."""

COUNT = (
    _COMMON
    + """
-- ARGV goes on: the hash of counts, how many rows to count at most, how many values, and of each its sorted set, what
-- stands before a key in it, and its bounds.
local space = open()
if not space.is_known then return {space.pointer} end
local stored, most = redis.call('HGETALL', take()), number()
local is_all_live = true
for i = 1, #stored, 2 do
  local partition, epoch = string.match(stored[i], '^(%d+)%.(%d+)$')
  if tonumber(stored[i + 1]) > 0 and tonumber(epoch) < (space.epochs[partition] or 0) then is_all_live = false end
end

local smallest, size, filters = nil, math.huge, {}
for i = 1, number() do
  local filter = {take(), take(), take(), take()}
  local entries = redis.call('ZLEXCOUNT', filter[1], filter[3], filter[4])
  filters[i] = filter
  if entries < size then smallest, size = filter, entries end
end
if is_all_live and #filters == 1 then return {space.pointer, size, 0} end

local function is_counted(key)
  return is_all_live or is_live(space, redis.call('GETRANGE', space.rows_at .. key, 0, 63))
end

local count, looked, from = 0, 0, smallest[3]
while looked <= most do
  local members = redis.call('ZRANGEBYLEX', smallest[1], from, smallest[4], 'LIMIT', 0, 250)
  for _, member in ipairs(members) do
    local key = key_of(member)
    if passes(filters, key) and is_counted(key) then count = count + 1 end
  end
  looked = looked + #members
  if #members < 250 then return {space.pointer, count, 0} end
  from = '(' .. members[#members]
end
return {space.pointer, count, 1}
"""
)
"""The pointer alone when it is another. Else pointer, the count, and 1 where counting was ended, for even the rarest of
the values has more entries than most rows."""

LETTERS = """
-- KEYS: times, letters. ARGV: how many.
local ids = redis.call('ZREVRANGE', KEYS[1], 0, tonumber(ARGV[1]) - 1)
local letters = {}
for i, id in ipairs(ids) do letters[i] = redis.call('HGET', KEYS[2], id) or '' end
return {letters, redis.call('ZCARD', KEYS[1])}
"""
"""The newest dead letters, packed, and how many there are."""
