%% SPDX-License-Identifier: Apache-2.0

%% @doc Shared state: one table for all workers of the node and for Erlang code.
%%
%% Keys are Erlang terms; Python's `str' and `bytes' are binaries here. A value that Python wrote
%% rests as it was encoded and is decoded only for {@link get/1}; integers rest as integers, so that
%% counting is one atomic table operation.
%%
%% The table belongs to the application's own process and so outlives every process of the
%% supervision tree; this process only sweeps expired rows, which readers no longer see anyway.
%% It is public with write concurrency because each worker writes by itself, and every write is one
%% atomic table operation.
-module(hornbeam_state).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

%% API
-export([get/1]).
-export([get/2]).
-export([set/2]).
-export([set/3]).
-export([incr/1]).
-export([incr/2]).
-export([delete/1]).

%% internal
-export([create_table/0]).
-export([start_link/0]).
-export([get_encoded/1]).
-export([set_encoded/3]).

%% gen_server
-export([init/1]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).

-export_type([key/0, encoded/0, ttl_ms/0]).

-type key() :: term().

-type encoded() :: binary().
%% External Term Format with its version byte.

-type ttl_ms() :: non_neg_integer() | undefined.
%% How long the value is to be kept; `undefined' is for ever.

%% Rows: {Key, integer() | {encoded, encoded()}, ExpiresMs | infinity}. `infinity' is above every
%% number in Erlang's order of terms, which the match specifications below rely on.
-define(TABLE, ?MODULE).
-define(SWEEP_MS, 1000).

%%% API

%% @doc The value of `Key', decoded; `undefined' when there is none.
-spec get(key()) -> term().
get(Key) ->
    get(Key, undefined).

%% @doc The same with a default.
-spec get(key(), Default) -> term() | Default.
get(Key, Default) ->
    case lookup(Key) of
        {ok, {encoded, Encoded}} -> binary_to_term(Encoded);
        {ok, Integer} -> Integer;
        none -> Default
    end.

%% @doc Set `Key' for ever.
-spec set(key(), term()) -> ok.
set(Key, Value) ->
    set(Key, Value, undefined).

%% @doc Set `Key' for `TtlMs' milliseconds.
-spec set(key(), term(), ttl_ms()) -> ok.
set(Key, Value, TtlMs) when is_integer(Value) ->
    store(Key, Value, TtlMs);
set(Key, Value, TtlMs) ->
    store(Key, {encoded, term_to_binary(Value)}, TtlMs).

%% @equiv incr(Key, 1)
-spec incr(key()) -> {ok, integer()} | {error, not_an_integer}.
incr(Key) ->
    incr(Key, 1).

%% @doc Add to the integer under `Key', which counts as 0 when there is none; the new value.
-spec incr(key(), integer()) -> {ok, integer()} | {error, not_an_integer}.
incr(Key, Delta) when is_integer(Delta) ->
    ok = drop_expired(Key),
    try ets:update_counter(?TABLE, Key, {2, Delta}, {Key, 0, infinity}) of
        Value -> {ok, Value}
    catch
        error:badarg -> {error, not_an_integer}
    end.

%% @doc Remove `Key'; whether it was there.
-spec delete(key()) -> boolean().
delete(Key) ->
    case ets:take(?TABLE, Key) of
        [{_, _, ExpiresMs}] -> ExpiresMs > now_ms();
        [] -> false
    end.

%%% For the workers

-spec create_table() -> ok.
create_table() ->
    _ = ets:new(?TABLE, [named_table, public, {write_concurrency, true},
                         {read_concurrency, true}]),
    ok.

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% @private As `get/1', but as Python wants it: encoded.
-spec get_encoded(key()) -> encoded() | undefined.
get_encoded(Key) ->
    case lookup(Key) of
        {ok, {encoded, Encoded}} -> Encoded;
        {ok, Integer} -> term_to_binary(Integer);
        none -> undefined
    end.

%% @private As `set/3' with a value that Python encoded.
-spec set_encoded(key(), encoded(), ttl_ms()) -> ok.
set_encoded(Key, <<131, Tag, _/binary>> = Encoded, TtlMs)
        when Tag =:= 97; Tag =:= 98; Tag =:= 110; Tag =:= 111 ->
    %% SMALL_INTEGER_EXT, INTEGER_EXT, SMALL_BIG_EXT, LARGE_BIG_EXT
    store(Key, binary_to_term(Encoded, [safe]), TtlMs);
set_encoded(Key, Encoded, TtlMs) ->
    store(Key, {encoded, binary:copy(Encoded)}, TtlMs).

%%% gen_server

-spec init([]) -> {ok, undefined}.
init([]) ->
    _ = erlang:start_timer(?SWEEP_MS, self(), sweep),
    {ok, undefined}.

-spec handle_call(term(), gen_server:from(), undefined) -> no_return().
handle_call(Request, _From, _State) ->
    error({unexpected_call, Request}).

-spec handle_cast(term(), undefined) -> no_return().
handle_cast(Request, _State) ->
    error({unexpected_cast, Request}).

-spec handle_info(term(), undefined) -> {noreply, undefined}.
handle_info({timeout, _, sweep}, State) ->
    _ = ets:select_delete(?TABLE, [{{'_', '_', '$1'}, [{'=<', '$1', now_ms()}], [true]}]),
    _ = erlang:start_timer(?SWEEP_MS, self(), sweep),
    {noreply, State};
handle_info(Message, State) ->
    ?LOG_WARNING(#{what => unexpected_message, message => Message}),
    {noreply, State}.

%%% Internal

lookup(Key) ->
    case ets:lookup(?TABLE, Key) of
        [{_, Value, infinity}] ->
            {ok, Value};
        [{_, Value, ExpiresMs}] ->
            case ExpiresMs > now_ms() of
                true -> {ok, Value};
                false -> none
            end;
        [] ->
            none
    end.

store(Key, Value, TtlMs) ->
    true = ets:insert(?TABLE, {Key, Value, expires_ms(TtlMs)}),
    ok.

%% A counter that has expired starts anew. Deletes the very row that was seen, so that it cannot
%% take away what another process sets in between.
drop_expired(Key) ->
    case ets:lookup(?TABLE, Key) of
        [{_, _, ExpiresMs} = Row] when is_integer(ExpiresMs) ->
            _ = ExpiresMs =< now_ms() andalso ets:delete_object(?TABLE, Row),
            ok;
        _ ->
            ok
    end.

expires_ms(undefined) -> infinity;
expires_ms(TtlMs) when is_integer(TtlMs), TtlMs >= 0 -> now_ms() + TtlMs.

now_ms() ->
    erlang:monotonic_time(millisecond).
