#!lua name=apihub_limits_v1
-- Redis' side of the fleet's limits: one batch of questions of one node in, one bulk string of answers out. The model that
-- it has to match to the unit is limits/src/central.rs; the layouts below are packed by limits/src/script/pack.rs.
-- Reads the clock of Redis alone, touches no key that was not declared, and writes only after everything was read and
-- checked: a malformed message is refused and changes nothing.
-- Every number is an integer below 2^53. floor(x / y) and ceil(x / y) are exact there.

local VERSION = 1
local ASKS_MAX = 128
local EXACT_MAX = 9007199254740991
local PER_MINUTE_MAX = 50000000
local BURST_MAX = 50000000

-- Units of one token: n requests a minute gain n units a microsecond.
local UNITS = 60000000
local LEASE_MAX_US = 500000
local REFUND_AGE_MAX_US = 706000
local WINDOW_US = 60000000
-- The sliding window: twelve whole parts of a minute and the life of a lease, and the part that is leaving.
local SUBS = 13
local SUB_US = 5041667
-- How far below full a key may be, in bursts.
local USED_BURSTS_MAX = 3
-- What a state outlives its refill or its window by.
local KEEP_US = 60000000
local LINK_TTL_US, LINK_TTL_MS = 86400000000, '86400000'
-- Longer than any period: whoever has not counted for so long is in another one.
local QUOTA_TTL_US = 40 * 86400 * 1000000
-- A state's life in Redis is set so much longer than needed, so that it is seldom set.
local LIFE_EXTRA_US = 600 * 1000000

local BUCKET, SLIDING, FIXED, NONE = 0, 1, 2, 3
local DONE, ADMITTED, SUPERSEDED, STALE = 0, 1, 2, 3
-- Flags of an ask. REPEATED: the key stood in the message before.
local REPEATED, HARD, WITH_QUOTA, WITH_REFUND = 8, 4, 2, 1

-- version, node, epoch, birth, send, debts
local HEAD, HEAD_BYTES = '<Bc8I8c8I8I8', 41
-- key, revision, algorithm, flags, per_minute, burst, debt, want, period, included
local ASK, ASK_BYTES = '<c8I8BBI4I4I4I4I4I8', 74
-- tokens, granted_us, level, credited: the end of an ask
local REFUND, REFUND_AT = '<I4I8i8I8', 46
-- version, verdict, node, send, epoch, now_us
local ANSWER = '<BBc8I8I8I8'
-- key, tokens, level, credited, valid_us, wait_us, grows_us, quota (0: none asked, 1: lost, 2: told), left
local GRANT = '<c8I4i8I8I4I8I4Bi8'
-- epoch, birth, send, debts, expires_us
local LINK, LINK_BYTES = '<dc8ddd', 40
-- A state begins with what seldom changes: kind, has a quota, revision, born_us, per_minute, burst, period, since_us, and
-- when Redis drops it
local STATE, STATE_BYTES, STATE_BYTES_TEXT = '<BBddddddd', 58, '58'
-- and ends with what always does: credited, used, mark, used of the period.
-- used: units for a bucket, else tokens. mark: the moment, the window, or the newest sub-window to which it refers.
-- A sliding window has, in the place of per_minute, the oldest of its sub-windows that counts anything; 0: none does.
local LIVELY, LIVELY_BYTES = '<dddd', 32
local BOTH, BOTH_BYTES = '<BBddddddddddd', STATE_BYTES + LIVELY_BYTES
-- Of a sliding window, appended: its sub-windows, the newest first.
local COUNTS, COUNTS_BYTES, NEWEST = '<I4I4I4I4I4I4I4I4I4I4I4I4I4', 4 * SUBS, '<I4'
local LIVELY_SLIDING, LIVELY_NEWEST = '<ddddI4I4I4I4I4I4I4I4I4I4I4I4I4', '<ddddI4'
-- period, used
local SEED, SEED_BYTES = '<I4I8', 12
-- period, least, excess, since_us; and the answer: before, after, credited, born_us, since_us
local MEND, MEND_BYTES, MENDED = '<I4I8I8I8', 28, '<I8I8I8I8I8'

-- Lua's own functions, which Redis gives to calls and not yet to the loading of a library.
local floor, ceil, min, max, pack, read

local function prepare()
  floor, ceil, min, max, pack, read = math.floor, math.ceil, math.min, math.max, struct.pack, struct.unpack
end

local function refuse(what)
  return redis.error_reply('LIMITS malformed ' .. what)
end

local function clock_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Judges a message by its numbers: verdict, epoch, whether its debts are new, and the link to be written.
local function admit(value, epoch, birth, send, debts, now)
  local known, known_birth, last, told, expires
  if value and #value == LINK_BYTES then
    known, known_birth, last, told, expires = read(LINK, value)
    if now >= expires then known = nil end
  end
  if epoch == 0 then
    if known and known_birth == birth then return ADMITTED, known, false, nil end
    epoch = (known or 0) + 1
    return ADMITTED, epoch, false, pack(LINK, epoch, birth, 0, 0, now + LINK_TTL_US)
  end
  if not known or known < epoch then known, known_birth, last, told = epoch, birth, 0, 0 end
  if known > epoch then return SUPERSEDED, 0, false, nil end
  if send <= last then return STALE, 0, false, nil end
  return DONE, 0, debts > told, pack(LINK, known, known_birth, send, max(told, debts), now + LINK_TTL_US)
end

-- When nothing is left of a window and nothing that speaks of it can be under way.
local function expires_us(kind, mark)
  if kind == FIXED then return (mark + 1) * WINDOW_US + KEEP_US end
  return (mark + 2 * (SUBS - 1)) * SUB_US
end

-- Lets time pass for a window: used, mark.
local function settle_window(kind, used, mark, counts, now)
  if kind == FIXED then
    local window = floor(now / WINDOW_US)
    return window > mark and 0 or used, window
  end
  local head = floor(now / SUB_US)
  local steps = min(head - mark, SUBS)
  if steps > 0 then
    for age = SUBS, 1, -1 do
      if age > SUBS - steps then used = used - counts[age] end
      counts[age] = age > steps and counts[age - steps] or 0
    end
  end
  return used, head
end

-- The same fraction of another size, rounded up, under another algorithm: used, mark, counts.
local function rebase(kind, used, size, algorithm, burst, now)
  local units = kind == BUCKET and used or min(used, USED_BURSTS_MAX * size) * UNITS
  local whole = floor(units / size)
  units = whole * burst + ceil((units - whole * size) * burst / size)
  if algorithm == BUCKET then return units, now, nil end
  local tokens = ceil(units / UNITS)
  if algorithm == FIXED then return tokens, floor(now / WINDOW_US), nil end
  local counts = { tokens }
  for age = 2, SUBS do counts[age] = 0 end
  return tokens, floor(now / SUB_US), counts
end

-- May go below zero, and forgets what is beyond.
local function debit_debt(kind, size, used, counts, debt)
  if kind == BUCKET then return min(used + debt * UNITS, USED_BURSTS_MAX * size * UNITS) end
  if kind == FIXED then return min(used + debt, USED_BURSTS_MAX * size) end
  local newest = counts[1]
  counts[1] = min(newest + debt, USED_BURSTS_MAX * size)
  return used + counts[1] - newest
end

-- What goes back in, and what is used then. For a bucket: no more than it would hold more had those tokens never left.
local function refund(kind, rate, size, used, mark, counts, credited, now, tokens, granted, level, told)
  if kind == FIXED then
    if floor(granted / WINDOW_US) ~= mark then return 0, used end
    tokens = min(tokens, used)
    return tokens, used - tokens
  end
  if kind == SLIDING then
    local age = mark - floor(granted / SUB_US) + 1
    if age < 1 or age > SUBS then return 0, used end
    tokens = min(tokens, counts[age])
    counts[age] = counts[age] - tokens
    return tokens, used - tokens
  end
  local full = size * UNITS
  local peak = level + (now - granted) * rate + max(credited - told, 0) * UNITS
  peak = min(max(peak, min(full - used, full)), full)
  tokens = min(tokens, floor((full - peak) / UNITS), floor(used / UNITS))
  return tokens, used - tokens * UNITS
end

-- When there will be a token if nobody takes one.
local function wait_us(kind, rate, size, used, mark, counts, now)
  if kind == BUCKET then
    local missing = UNITS - (size * UNITS - used)
    return missing > 0 and ceil(missing / rate) or 0
  end
  if used < size then return 0 end
  if kind == FIXED then return max((mark + 1) * WINDOW_US - now, 0) end
  local over = 1 - (size - used)
  for age = SUBS, 1, -1 do
    over = over - counts[age]
    if over <= 0 then return max((mark - age + 1 + SUBS) * SUB_US - now, 0) end
  end
  return WINDOW_US
end

local function newest_sub(now)
  return floor(now / SUB_US)
end

-- The sub-windows of a state, or the newest alone.
local function counts_of(value, partial)
  return { read(partial and NEWEST or COUNTS, value, BOTH_BYTES + 1) }
end

local function oldest_of(mark, counts)
  for age = SUBS, 1, -1 do
    if counts[age] > 0 then return mark - age + 1 end
  end
  return 0
end

-- How long a window's tokens are good, when its level grows by itself, and the oldest sub-window that counts anything.
local function foresee(kind, used, mark, oldest, counts, partial, now)
  if kind == FIXED then
    local left = max((mark + 1) * WINDOW_US - now, 0)
    return min(left, LEASE_MAX_US), used > 0 and left or 0, oldest
  end
  if not partial then
    oldest = oldest_of(mark, counts)
  elseif oldest == 0 and counts[1] > 0 then
    oldest = mark
  end
  return LEASE_MAX_US, oldest > 0 and max((oldest + SUBS) * SUB_US - now, 0) or 0, oldest
end

-- Half of what is there, at least one, at most what is wanted.
local function offer(want, level)
  if want == 0 or level < 1 then return 0 end
  local half = level < 4 and 1 or floor(level / 2)
  return want < half and want or half
end

-- How long Redis has to keep a state.
local function life_us(kind, counted, rate, used, mark, now)
  local needed = 0
  if kind == BUCKET then
    needed = ceil(used / rate) + KEEP_US
  elseif kind ~= NONE then
    needed = expires_us(kind, mark) - now
  end
  if counted == 1 and needed < QUOTA_TTL_US then return QUOTA_TTL_US end
  return needed
end

-- A state of which the lively part, or the beginning of it, was written anew.
local function overlay(state, lively)
  return string.sub(state, 1, STATE_BYTES) .. lively .. string.sub(state, STATE_BYTES + #lively + 1)
end

-- The state that an earlier ask of the same message leaves behind.
local function said_before(keys, held, values, lives, ask)
  for before = ask - 1, 1, -1 do
    if keys[before + 1] == keys[ask + 1] then
      return lives[before] and values[before] or overlay(held[before + 1], values[before])
    end
  end
  return held[ask + 1]
end

local function text_of_ms(us)
  return string.format('%.0f', ceil(us / 1000))
end

local function exchange(keys, args)
  if not pack then prepare() end
  local call, read, pack = redis.call, read, pack
  local argument, asks = args[1], #keys - 1
  if #args ~= 1 or asks < 0 or asks > ASKS_MAX or #argument ~= HEAD_BYTES + asks * ASK_BYTES then
    return refuse('length')
  end
  local version, node, epoch, birth, send, debts = read(HEAD, argument)
  if version ~= VERSION or epoch > EXACT_MAX or send > EXACT_MAX or debts > EXACT_MAX then return refuse('head') end
  local now = clock_us()
  local held = call('MGET', unpack(keys))
  local verdict, admitted, debts_are_new, link = admit(held[1], epoch, birth, send, debts, now)
  local answer = { pack(ANSWER, VERSION, verdict, node, send, admitted, now) }
  if verdict ~= DONE then
    if link then call('SET', keys[1], link, 'PX', LINK_TTL_MS) end
    return answer[1]
  end

  -- What will be written: a whole state that has a life, or the lively part of one.
  local values, lives = {}, {}
  for ask = 1, asks do
    local at = HEAD_BYTES + (ask - 1) * ASK_BYTES + 1
    local key, revision, algorithm, flags, per_minute, burst, debt, want, period, included = read(ASK, argument, at)
    if
      revision > EXACT_MAX or included > EXACT_MAX or algorithm > FIXED or flags >= 2 * REPEATED
      or per_minute < 1 or per_minute > PER_MINUTE_MAX or burst < 1 or burst > BURST_MAX
    then
      return refuse('ask')
    end

    -- The state as it stands; what cannot be read counts as lost.
    local name, value = keys[ask + 1], held[ask + 1]
    if flags >= REPEATED then
      flags, value = flags - REPEATED, said_before(keys, held, values, lives, ask)
      held[ask + 1] = value
    end
    local kind, counted, known, born, rate, size, month, since, dies, credited, used, mark, spent
    local counts, partial
    local length = value and #value
    if length == BOTH_BYTES or length == BOTH_BYTES + COUNTS_BYTES then
      kind, counted, known, born, rate, size, month, since, dies, credited, used, mark, spent = read(BOTH, value)
      if (kind == SLIDING) ~= (length > BOTH_BYTES) then kind = NONE end
      if kind == SLIDING then
        -- Most asks need no more than the newest part.
        partial = revision <= known and flags % 2 == 0 and newest_sub(now) == mark
        counts = counts_of(value, partial)
      end
    else
      kind, counted, month, since, spent = NONE, 0, 0, 0, 0
    end

    -- Time passes. Where it was set back, what was granted before cannot be dated any more.
    local changed, moved = false, false
    if kind == BUCKET then
      local elapsed = now - mark
      mark = now
      if elapsed < 0 then
        born, changed = now, true
      elseif elapsed * rate < used then
        used = used - elapsed * rate
      elseif (elapsed - KEEP_US) * rate < used then
        used = 0
      else
        kind = NONE
      end
    elseif kind ~= NONE then
      if kind > NONE or now >= expires_us(kind, mark) then
        kind = NONE
      else
        local was = mark
        used, mark = settle_window(kind, used, mark, counts, now)
        if mark < was then born, changed = now, true end
        moved = mark ~= was
      end
    end
    if kind == NONE then
      kind, known, born, credited, rate, size, changed = algorithm, revision, now, 0, per_minute, burst, true
      used, mark, counts = rebase(BUCKET, 0, 1, kind, size, now)
      partial = false
    elseif revision > known then
      -- A later number of the same terms changes nothing else.
      if kind ~= algorithm or size ~= burst or (kind == BUCKET and rate ~= per_minute) then
        used, mark, counts = rebase(kind, used, size, algorithm, burst, now)
        kind, born, rate, size = algorithm, now, per_minute, burst
      end
      known, changed = revision, true
    end

    -- Debts, then what comes back.
    if not debts_are_new then debt = 0 end
    if debt > 0 then used = debit_debt(kind, size, used, counts, debt) end
    local back, granted = 0, 0
    if flags % 2 == WITH_REFUND then
      local tokens, level, told
      tokens, granted, level, told = read(REFUND, argument, at + REFUND_AT)
      if granted > EXACT_MAX or level > EXACT_MAX or level < -EXACT_MAX or told > EXACT_MAX then return refuse('refund') end
      if granted >= born and granted <= now and now - granted <= REFUND_AGE_MAX_US then
        back, used = refund(kind, rate, size, used, mark, counts, credited, now, tokens, granted, level, told)
        credited, moved = credited + back, true
      end
    end

    -- The month, where its count is known.
    local quota, left = 0, 0
    if flags >= WITH_QUOTA then quota = 1 end
    if counted == 1 then
      if quota == 1 then
        quota = 2
        if period > month then month, spent, since, changed = period, 0, now, true end
      end
      spent = spent + debt
      if back > 0 and granted >= since then spent = max(spent - back, 0) end
      left = included - spent
    end

    -- The grant.
    local level
    if kind == BUCKET then
      level = size * UNITS - used
    else
      level = max(size - used, (1 - USED_BURSTS_MAX) * size) * UNITS
    end
    local tokens = offer(want, level / UNITS)
    if tokens > 0 then
      if quota == 2 and flags >= HARD then tokens = min(tokens, offer(want, left)) end
      level = level - tokens * UNITS
      if kind == BUCKET then
        used = used + tokens * UNITS
      else
        used = used + tokens
        if counts then counts[1] = counts[1] + tokens end
      end
      if counted == 1 then spent, left = spent + tokens, left - tokens end
    end
    local valid, wait, grows = LEASE_MAX_US, 0, 0
    if kind ~= BUCKET then
      local oldest
      valid, grows, oldest = foresee(kind, used, mark, rate, counts, partial, now)
      if oldest ~= rate then rate, changed = oldest, true end
    end
    local needed = life_us(kind, counted, rate, used, mark, now)
    local whole = changed or now + needed > dies
    if partial and (whole or level < UNITS) then
      local newest = counts[1]
      counts = counts_of(value)
      counts[1] = newest
    end
    if level < UNITS then wait = wait_us(kind, rate, size, used, mark, counts, now) end
    answer[ask + 1] = pack(GRANT, key, tokens, level, credited, valid, wait, grows, quota, quota == 2 and left or 0)

    -- The state: all of it where its head changed or its life grows short, else what is lively.
    if not counts then
      value = pack(LIVELY, credited, used, mark, spent)
    elseif moved or whole then
      value = pack(LIVELY_SLIDING, credited, used, mark, spent, unpack(counts, 1, SUBS))
    else
      value = pack(LIVELY_NEWEST, credited, used, mark, spent, counts[1])
    end
    if whole then
      dies = now + needed + LIFE_EXTRA_US
      value = pack(STATE, kind, counted, known, born, rate, size, month, since, dies) .. value
      lives[ask] = text_of_ms(needed + LIFE_EXTRA_US)
    end
    values[ask] = value
  end

  call('SET', keys[1], link, 'PX', LINK_TTL_MS)
  for ask = 1, asks do
    if lives[ask] then
      call('SET', keys[ask + 1], values[ask], 'PX', lives[ask])
    else
      call('SETRANGE', keys[ask + 1], STATE_BYTES_TEXT, values[ask])
    end
  end
  return table.concat(answer)
end

-- Puts a lost count of a period back; 1 if it was lost.
local function seed(keys, args)
  if not pack then prepare() end
  if #keys ~= 1 or #args ~= 1 or #args[1] ~= SEED_BYTES then return refuse('seed') end
  local period, spent = read(SEED, args[1])
  if spent > EXACT_MAX then return refuse('seed') end
  local now = clock_us()
  local value = redis.call('GET', keys[1])
  local length, counts = value and #value, ''
  local kind, counted, known, born, rate, size, month, since, dies, credited, used, mark = NONE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
  if length == BOTH_BYTES or length == BOTH_BYTES + COUNTS_BYTES then
    kind, counted, known, born, rate, size, month, since, dies, credited, used, mark = read(BOTH, value)
    counts = string.sub(value, BOTH_BYTES + 1)
  end
  if counted == 1 and month >= period then return 0 end
  local needed = life_us(kind, 1, rate, used, mark, now)
  dies = now + needed + LIFE_EXTRA_US
  value = pack(BOTH, kind, 1, known, born, rate, size, period, now, dies, credited, used, mark, spent) .. counts
  redis.call('SET', keys[1], value, 'PX', text_of_ms(needed + LIFE_EXTRA_US))
  return 1
end

-- Holds a known count of a period against another one: takes off what was found to be too much, unless somebody has done so since it
-- was found, and leaves no less than `least`. Refunds of what was granted before do not go into it any more. Tells the count, or
-- nothing where there is none.
local function mend(keys, args)
  if not pack then prepare() end
  if #keys ~= 1 or #args ~= 1 or #args[1] ~= MEND_BYTES then return refuse('mend') end
  local period, least, excess, found_since = read(MEND, args[1])
  if least > EXACT_MAX or excess > EXACT_MAX or found_since > EXACT_MAX then return refuse('mend') end
  local value = redis.call('GET', keys[1])
  local length = value and #value
  if length ~= BOTH_BYTES and length ~= BOTH_BYTES + COUNTS_BYTES then return '' end
  local kind, counted, known, born, rate, size, month, since, dies, credited, used, mark, spent = read(BOTH, value)
  if counted ~= 1 or month ~= period then return '' end
  local before, was_since = spent, since
  if excess > 0 and since == found_since then
    spent, since = max(spent - excess, 0), max(clock_us(), since + 1)
  end
  spent = max(spent, least)
  if spent ~= before or since ~= was_since then
    value = pack(BOTH, kind, counted, known, born, rate, size, month, since, dies, credited, used, mark, spent)
      .. string.sub(value, BOTH_BYTES + 1)
    redis.call('SET', keys[1], value, 'KEEPTTL')
  end
  return pack(MENDED, before, spent, credited, born, since)
end

redis.register_function('apihub_limits_v1_exchange', exchange)
redis.register_function('apihub_limits_v1_seed', seed)
redis.register_function('apihub_limits_v1_mend', mend)
