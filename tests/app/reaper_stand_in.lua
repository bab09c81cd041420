-- Stands in for Reaper: lua5.4 reaper_stand_in.lua SCRIPT ADDRESS FOLDER FILE ANSWERS FROM TO
-- The selected item begins at 10 s, and 0.1 s into FILE. Prints what the script does to the project.
local script, address, folder, file, answers, from, to = table.unpack(arg)
local values = { D_POSITION = 10, D_LENGTH = 0.5, D_STARTOFFS = 0.1, D_PLAYRATE = 1, IP_TRACKNUMBER = 3 }

local function told(name)
  return function(...)
    local words = { name }
    for _, value in ipairs({ ... }) do words[#words + 1] = tostring(value) end
    print(table.concat(words, "\t"))
  end
end

local function value(_, name) return values[name] end

reaper = {
  GetExtState = function() return address end,
  GetProjectPath = function() return folder end,
  GetSelectedMediaItem = function() return file ~= "" and "item" or nil end,
  GetActiveTake = function() return "take" end,
  GetMediaItem_Track = function() return "track" end,
  GetMediaItemTake_Source = function() return "source" end,
  GetMediaSourceFileName = function() return file end,
  GetMediaItemInfo_Value = value,
  GetMediaItemTakeInfo_Value = value,
  GetMediaTrackInfo_Value = value,
  GetSet_LoopTimeRange = function() return tonumber(from), tonumber(to) end,
  GetUserInputs = function() return true, answers end,
  ExecProcess = function(command)
    local pipe = io.popen(command .. " 2>/dev/null")
    local output = pipe:read("a")
    local _, _, code = pipe:close()
    return code .. "\n" .. output
  end,
  InsertTrackAtIndex = told("InsertTrackAtIndex"),
  GetTrack = function(_, index) return "track " .. index end,
  PCM_Source_CreateFromFile = function(path) told("PCM_Source_CreateFromFile")(path) return "new source" end,
  GetMediaSourceLength = function() return 0.9 end,
  AddMediaItemToTrack = function(track) told("AddMediaItemToTrack")(track) return "new item" end,
  AddTakeToMediaItem = function() return "new take" end,
  SetMediaItemTake_Source = told("SetMediaItemTake_Source"),
  SetMediaItemTakeInfo_Value = told("SetMediaItemTakeInfo_Value"),
  SetMediaItemInfo_Value = told("SetMediaItemInfo_Value"),
  UpdateArrange = function() end,
  Undo_BeginBlock = told("Undo_BeginBlock"),
  Undo_EndBlock = told("Undo_EndBlock"),
  ShowMessageBox = told("ShowMessageBox"),
}
dofile(script)
