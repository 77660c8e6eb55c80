%% SPDX-License-Identifier: Apache-2.0

%% @private The tables of the shared state: rows, their memory, their expiry.
%%
%% Two ordered tables. `hornbeam_state' holds the rows
%% `{TableKey, Value, ExpiresNs | infinity, Bytes, KeyBlob | undefined}', `hornbeam_state_expiry'
%% holds `{{ExpiresNs, TableKey}}' for each row that expires, so that the sweep costs what has
%% expired. Both are public with write concurrency: each worker works on them in its own process.
%%
%% The invariants:
%%
%% <ul>
%% <li>A row changes in one of two ways: an integer is counted up in place, or the very row that
%%   was seen is exchanged ({@link ets:select_replace/2} on its key and all of its elements; a new
%%   row by `insert_new'). Whoever finds that it has changed meanwhile starts again.</li>
%% <li>So whoever exchanges a row knows exactly which one it takes away, and the sum of `Bytes' is
%%   exact: memory is reserved before a row is written, and given back by whom removes it.</li>
%% <li>A row that has expired is not there for readers, whether it is swept or not.</li>
%% <li>The table is ordered so that the keys with a prefix lie side by side. An ordered table holds
%%   1 and 1.0 for equal, so only binaries and integers are keys as they are; any other key is
%%   its encoding in a tuple.</li>
%% </ul>
-module(hornbeam_state_table).

%% API
-export([create/1]).
-export([name/1]).
-export([name/2]).
-export([key/1]).
-export([key_blob/1]).
-export([get/1]).
-export([put/3]).
-export([put_all/2]).
-export([add/3]).
-export([exchange/2]).
-export([take/1]).
-export([incr/2]).
-export([names/1]).
-export([sweep/0]).
-export([info/0]).

-export_type([name/0, value/0, ttl_ms/0, full/0]).

-type table_key() :: binary() | integer() | {binary()}.

-opaque name() :: {table_key(), hornbeam_blob:blob() | undefined}.
%% A key as the table has it, and as Python wrote it where that is not what it would be encoded as.

-type value() :: integer() | hornbeam_blob:blob().

-type ttl_ms() :: non_neg_integer() | undefined.
%% How long a value is to be kept; `undefined' is for ever.

-type full() :: {state_full, #{limit_bytes := pos_integer()}}.

-define(TABLE, hornbeam_state).
-define(EXPIRY, hornbeam_state_expiry).

%% Positions in the atomics array.
-define(USED, 1).
-define(LIMIT, 2).
-define(EXPIRED, 3).
%% Stands for no limit.
-define(NO_LIMIT, 0).

%% What a row takes beside the bytes of its key and value: the node of the tree, the tuple, the
%% headers of the binaries. Measured on a 64 bit machine, where it is 130 to 210.
-define(ROW_BYTES, 160).
%% The same for the row of the expiry index, where the key is once more.
-define(EXPIRY_BYTES, 144).

%% Integers that fit a word; counting beyond them is accounted for.
-define(MAX_SMALL, (1 bsl 59)).

%%% API

%% @doc Make the tables; they belong to the caller. `LimitBytes' bounds what rows take.
-spec create(LimitBytes :: pos_integer() | infinity) -> ok.
create(LimitBytes) ->
    Options = [named_table, ordered_set, public, {write_concurrency, true},
               {read_concurrency, true}],
    _ = ets:new(?TABLE, Options),
    _ = ets:new(?EXPIRY, Options),
    Account = atomics:new(3, [{signed, true}]),
    ok = atomics:put(Account, ?LIMIT, case LimitBytes of
        infinity -> ?NO_LIMIT;
        _ -> LimitBytes
    end),
    persistent_term:put(?MODULE, Account).

-spec name(Key :: term()) -> name().
name(Key) when is_binary(Key); is_integer(Key) -> {Key, undefined};
name(Key) -> {{term_to_binary(Key, [deterministic])}, undefined}.

%% @doc The same for a key that Python is to get back as it wrote it.
-spec name(Key :: term(), hornbeam_blob:blob()) -> name().
name(Key, KeyBlob) ->
    {TableKey, undefined} = name(Key),
    {TableKey, binary:copy(KeyBlob)}.

-spec key(name()) -> term().
key({{Encoded}, _}) -> binary_to_term(Encoded);
key({Key, _}) -> Key.

-spec key_blob(name()) -> hornbeam_blob:blob().
key_blob({{Encoded}, undefined}) -> Encoded;
key_blob({Key, undefined}) -> hornbeam_blob:encode(Key);
key_blob({_, KeyBlob}) -> KeyBlob.

-spec get(name()) -> {ok, value()} | none.
get({TableKey, _}) ->
    seen(live(find(TableKey))).

-spec put(name(), value(), ttl_ms()) -> ok | {error, full()}.
put(Name, Value, TtlMs) ->
    write(row(Name, Value, expires_ns(TtlMs))).

%% @doc All or none, as far as memory goes: it is reserved for all before the first is written.
-spec put_all([{name(), value()}], ttl_ms()) -> ok | {error, full()}.
put_all(Pairs, TtlMs) ->
    ExpiresNs = expires_ns(TtlMs),
    %% The last of those with one key wins, as if they were written one by one.
    Rows = maps:from_list([{TableKey, row(Name, Value, ExpiresNs)}
                           || {{TableKey, _} = Name, Value} <- Pairs]),
    write_all(maps:values(Rows)).

%% @doc Put it where there is nothing.
-spec add(name(), value(), ttl_ms()) -> boolean() | {error, full()}.
add({TableKey, _} = Name, Value, TtlMs) ->
    Old = find(TableKey),
    case live(Old) of
        none ->
            case try_exchange(Old, row(Name, Value, expires_ns(TtlMs))) of
                changed -> add(Name, Value, TtlMs);
                ok -> true;
                {error, _} = Error -> Error
            end;
        _ ->
            false
    end.

%% @doc Put what `Decide' makes of the value that is there, which is kept as long as it would have
%% been; `keep' leaves it. `Decide' may run more than once.
-spec exchange(name(), fun(({ok, value()} | none) -> {put, value()} | keep)) ->
    {ok, value()} | kept | {error, full()}.
exchange({TableKey, _} = Name, Decide) ->
    Old = find(TableKey),
    Live = live(Old),
    case Decide(seen(Live)) of
        keep ->
            kept;
        {put, Value} ->
            New = case Live of
                none -> row(Name, Value, infinity);
                _ -> with_value(Live, Value)
            end,
            case try_exchange(Old, New) of
                ok -> {ok, Value};
                changed -> exchange(Name, Decide);
                {error, _} = Error -> Error
            end
    end.

%% @doc Take it away.
-spec take(name()) -> {ok, value()} | none.
take({TableKey, _}) ->
    case ets:take(?TABLE, TableKey) of
        [Row] ->
            release(bytes(Row)),
            unindex(Row),
            seen(live(Row));
        [] ->
            none
    end.

%% @doc Add to the integer that is there, or to 0.
-spec incr(name(), integer()) -> {ok, integer()} | {error, not_an_integer | full()}.
incr({TableKey, _} = Name, Delta) when Delta > -?MAX_SMALL, Delta < ?MAX_SMALL ->
    case expiry(TableKey) of
        none -> incr_by_exchange(Name, Delta);
        ExpiresNs ->
            case is_live(ExpiresNs) of
                true -> incr_in_place(Name, Delta);
                false -> incr_by_exchange(Name, Delta)
            end
    end;
incr(Name, Delta) ->
    incr_by_exchange(Name, Delta).

%% @doc The names of all live rows, or of those whose key is a binary with that prefix; the latter
%% costs what is found.
-spec names(Prefix :: binary() | undefined) -> [name()].
names(undefined) ->
    Live = [{'>', '$2', now_ns()}],
    ets:select(?TABLE, [{{'$1', '_', '$2', '_', '$3'}, Live, [{{'$1', '$3'}}]}]);
names(Prefix) ->
    First = case ets:member(?TABLE, Prefix) of
        true -> Prefix;
        false -> ets:next(?TABLE, Prefix)
    end,
    names(First, Prefix, byte_size(Prefix), []).

%% @doc Remove what has expired; how many rows that were.
-spec sweep() -> non_neg_integer().
sweep() ->
    sweep(ets:first(?EXPIRY), now_ns(), 0).

-spec info() -> #{keys := non_neg_integer(), memory_bytes := non_neg_integer(),
                  limit_bytes := pos_integer() | infinity, expired := non_neg_integer()}.
info() ->
    Account = persistent_term:get(?MODULE),
    #{keys => ets:info(?TABLE, size),
      memory_bytes => max(0, atomics:get(Account, ?USED)),
      limit_bytes => case atomics:get(Account, ?LIMIT) of
          ?NO_LIMIT -> infinity;
          LimitBytes -> LimitBytes
      end,
      expired => atomics:get(Account, ?EXPIRED)}.

%%% Writing

write(New) ->
    case try_exchange(find(element(1, New)), New) of
        changed -> write(New);
        Result -> Result
    end.

%% Reserve, exchange, and give back where the row has changed meanwhile.
try_exchange(Old, New) ->
    GrowthBytes = bytes(New) - bytes(Old),
    case reserve(GrowthBytes) of
        ok ->
            case swap(Old, New) of
                true ->
                    reindex(Old, New),
                    ok;
                false ->
                    release(GrowthBytes),
                    changed
            end;
        {error, _} = Error ->
            %% What has expired takes no room, though it may not be swept yet.
            case sweep() of
                0 -> Error;
                _ -> changed
            end
    end.

write_all(Rows) ->
    Growth = [bytes(New) - bytes(find(element(1, New))) || New <- Rows],
    case reserve(lists:sum(Growth)) of
        ok ->
            lists:foreach(fun({New, Reserved}) -> write_reserved(New, Reserved) end,
                          lists:zip(Rows, Growth));
        {error, _} = Error ->
            case sweep() of
                0 -> Error;
                _ -> write_all(Rows)
            end
    end.

%% Where another process has changed the row since memory was reserved for it, the account is set
%% right without looking at the limit: half of the rows are written already.
write_reserved(New, ReservedBytes) ->
    Old = find(element(1, New)),
    case swap(Old, New) of
        true ->
            release(ReservedBytes - (bytes(New) - bytes(Old))),
            reindex(Old, New);
        false ->
            write_reserved(New, ReservedBytes)
    end.

swap(none, New) -> ets:insert_new(?TABLE, New);
swap(Old, New) -> ets:select_replace(?TABLE, [{Old, [], [{const, New}]}]) =:= 1.

incr_in_place({TableKey, _} = Name, Delta) ->
    try ets:update_counter(?TABLE, TableKey, {2, Delta}) of
        Value -> {ok, Value}
    catch
        %% The row has gone meanwhile, or it holds no integer.
        error:badarg -> incr_by_exchange(Name, Delta)
    end.

incr_by_exchange({TableKey, _} = Name, Delta) ->
    Old = find(TableKey),
    case live(Old) of
        none -> incr_to(Old, row(Name, Delta, infinity), Name, Delta);
        Row when is_integer(element(2, Row)) ->
            incr_to(Old, with_value(Row, value(Row) + Delta), Name, Delta);
        _ -> {error, not_an_integer}
    end.

incr_to(Old, New, Name, Delta) ->
    case try_exchange(Old, New) of
        ok -> {ok, value(New)};
        changed -> incr(Name, Delta);
        {error, _} = Error -> Error
    end.

%%% Memory

reserve(Bytes) ->
    Account = persistent_term:get(?MODULE),
    UsedBytes = atomics:add_get(Account, ?USED, Bytes),
    case atomics:get(Account, ?LIMIT) of
        LimitBytes when Bytes > 0, LimitBytes =/= ?NO_LIMIT, UsedBytes > LimitBytes ->
            release(Bytes),
            {error, {state_full, #{limit_bytes => LimitBytes}}};
        _ ->
            ok
    end.

release(Bytes) ->
    atomics:sub(persistent_term:get(?MODULE), ?USED, Bytes).

%%% Expiry

%% The index follows the row. A process that is killed in between leaves a row that nobody sees and
%% that goes with the next write to its key. Nanoseconds, so that two writes to one key do not
%% share an entry, which one of them might take from the other.
reindex(Old, New) when element(3, Old) =:= element(3, New) ->
    ok;
reindex(Old, New) ->
    unindex(Old),
    index(New).

index({_, _, infinity, _, _}) -> ok;
index({TableKey, _, ExpiresNs, _, _}) ->
    true = ets:insert(?EXPIRY, {{ExpiresNs, TableKey}}),
    ok.

unindex(none) -> ok;
unindex({_, _, infinity, _, _}) -> ok;
unindex({TableKey, _, ExpiresNs, _, _}) ->
    true = ets:delete(?EXPIRY, {ExpiresNs, TableKey}),
    ok.

sweep({ExpiresNs, TableKey} = Entry, NowNs, Count) when ExpiresNs =< NowNs ->
    Swept = sweep_row(find(TableKey), ExpiresNs),
    true = ets:delete(?EXPIRY, Entry),
    sweep(ets:next(?EXPIRY, Entry), NowNs, Count + Swept);
sweep(_, _, Count) ->
    atomics:add(persistent_term:get(?MODULE), ?EXPIRED, Count),
    Count.

sweep_row({_, _, ExpiresNs, Bytes, _} = Row, ExpiresNs) ->
    %% A row that was counted up meanwhile has expired as well.
    case ets:select_delete(?TABLE, [{setelement(2, Row, '_'), [], [true]}]) of
        1 ->
            release(Bytes),
            1;
        0 ->
            0
    end;
sweep_row(_, _) ->
    0.

expires_ns(undefined) -> infinity;
expires_ns(TtlMs) -> now_ns() + TtlMs * 1000000.

now_ns() ->
    erlang:monotonic_time(nanosecond).

%%% Rows

row({Key, KeyBlob}, Value, ExpiresNs) ->
    TableKey = own(Key),
    Bytes = ?ROW_BYTES + key_bytes(TableKey) + key_bytes(KeyBlob) + value_bytes(Value) +
        expiry_bytes(TableKey, ExpiresNs),
    {TableKey, Value, ExpiresNs, Bytes, KeyBlob}.

%% Not as a part of the packet that it came in.
own(Key) when is_binary(Key) ->
    case binary:referenced_byte_size(Key) > byte_size(Key) of
        true -> binary:copy(Key);
        false -> Key
    end;
own(Key) ->
    Key.

with_value({TableKey, _, ExpiresNs, _, KeyBlob}, Value) ->
    row({TableKey, KeyBlob}, Value, ExpiresNs).

find(TableKey) ->
    case ets:lookup(?TABLE, TableKey) of
        [Row] -> Row;
        [] -> none
    end.

live(none) -> none;
live(Row) ->
    case is_live(element(3, Row)) of
        true -> Row;
        false -> none
    end.

seen(none) -> none;
seen(Row) -> {ok, value(Row)}.

is_live(infinity) -> true;
is_live(ExpiresNs) -> ExpiresNs > now_ns().

%% Without a copy of the value.
expiry(TableKey) ->
    try ets:lookup_element(?TABLE, TableKey, 3)
    catch error:badarg -> none
    end.

value(Row) -> element(2, Row).

bytes(none) -> 0;
bytes(Row) -> element(4, Row).

key_bytes(undefined) -> 0;
key_bytes({Encoded}) -> byte_size(Encoded);
key_bytes(Key) when is_binary(Key) -> byte_size(Key);
key_bytes(Key) -> value_bytes(Key).

value_bytes(Blob) when is_binary(Blob) -> byte_size(Blob);
value_bytes(Integer) when Integer > -?MAX_SMALL, Integer < ?MAX_SMALL -> 0;
value_bytes(Integer) -> erlang:external_size(Integer).

expiry_bytes(_, infinity) -> 0;
expiry_bytes(TableKey, _) -> ?EXPIRY_BYTES + key_bytes(TableKey).

%% Binaries come last in the order of terms, and those with one prefix lie side by side.
names(TableKey, Prefix, Size, Names) when is_binary(TableKey) ->
    case TableKey of
        <<Prefix:Size/binary, _/binary>> ->
            Found = case live(find(TableKey)) of
                none -> Names;
                Row -> [{TableKey, element(5, Row)} | Names]
            end,
            names(ets:next(?TABLE, TableKey), Prefix, Size, Found);
        _ ->
            lists:reverse(Names)
    end;
names(_, _, _, Names) ->
    lists:reverse(Names).
