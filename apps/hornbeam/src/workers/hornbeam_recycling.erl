%% SPDX-License-Identifier: Apache-2.0

%% @private When a worker has served for long enough: `max_requests' and `max_memory'.
%%
%% Tells each at most once in the life of a worker; the pool sees to the rest.
-module(hornbeam_recycling).

%% API
-export([new/1]).
-export([served/2]).
-export([beat/3]).
-export([resident_bytes/1]).

-export_type([limits/0]).

-record(limits, {
    requests :: pos_integer() | infinity,
    bytes :: pos_integer() | infinity,
    %% When its memory was looked at last.
    looked_ms :: integer() | undefined
}).

-opaque limits() :: #limits{}.

-type outcome() :: {recycle, hornbeam_slots:why(), limits()} | {keep, limits()}.

%% How often the memory is looked at.
-define(LOOK_MS, 1000).

%% @doc The limits of one life: the jitter is chosen here.
-spec new(hornbeam_config:config()) -> limits().
new(#{max_requests := infinity, max_memory := MaxMemory}) ->
    #limits{requests = infinity, bytes = MaxMemory};
new(#{max_requests := Max, max_requests_jitter := Jitter, max_memory := MaxMemory}) ->
    #limits{requests = Max + rand:uniform(Jitter + 1) - 1, bytes = MaxMemory}.

%% @doc It has completed so many requests.
-spec served(non_neg_integer(), limits()) -> outcome().
served(Count, Limits = #limits{requests = Count}) ->
    {recycle, {max_requests, Count}, Limits#limits{requests = infinity}};
served(_, Limits) ->
    {keep, Limits}.

%% @doc At a heartbeat: look at the memory of the process, if it is time.
-spec beat(NowMs :: integer(), OsPid :: pos_integer() | undefined, limits()) -> outcome().
beat(_, _, Limits = #limits{bytes = infinity}) ->
    {keep, Limits};
beat(NowMs, OsPid, Limits = #limits{looked_ms = undefined}) ->
    look(NowMs, OsPid, Limits);
beat(NowMs, _, Limits = #limits{looked_ms = LookedMs}) when NowMs - LookedMs < ?LOOK_MS ->
    {keep, Limits};
beat(NowMs, OsPid, Limits) ->
    look(NowMs, OsPid, Limits).

look(NowMs, OsPid, Limits = #limits{bytes = MaxBytes}) ->
    case resident_bytes(OsPid) of
        Bytes when is_integer(Bytes), Bytes > MaxBytes ->
            {recycle, {max_memory, Bytes}, Limits#limits{bytes = infinity}};
        _ ->
            {keep, Limits#limits{looked_ms = NowMs}}
    end.

%% @doc Bytes of a process that are in memory; `undefined' where the system does not tell.
%%
%% From `status' rather than `statm', which counts in pages of a size that we would have to know.
-spec resident_bytes(OsPid :: pos_integer() | undefined) -> non_neg_integer() | undefined.
resident_bytes(undefined) ->
    undefined;
resident_bytes(OsPid) ->
    case file:read_file("/proc/" ++ integer_to_list(OsPid) ++ "/status") of
        {ok, Text} -> resident_in(Text);
        {error, _} -> undefined
    end.

%% A process that has ended and is not reaped yet has no such line.
resident_in(Text) ->
    case re:run(Text, "^VmRSS:\\s+(\\d+) kB$", [multiline, {capture, all_but_first, binary}]) of
        {match, [Kibibytes]} -> binary_to_integer(Kibibytes) * 1024;
        nomatch -> undefined
    end.
