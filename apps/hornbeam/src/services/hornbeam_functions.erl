%% SPDX-License-Identifier: Apache-2.0

%% @doc Erlang functions that Python calls by name.
%%
%% ```
%% ok = hornbeam_functions:register(add, fun(A, B) -> A + B end),
%% ok = hornbeam_functions:register("now", erlang, system_time),
%% {ok, 3} = hornbeam_functions:call(add, [1, 2], 1000).
%% '''
%%
%% In Python that is `call("add", 1, 2)'. Each call runs in a process of its own, which is killed at
%% its deadline and when the worker that asked has gone. Names are text: an atom, a string and a
%% binary of the same letters are one name. A name that is registered again means the new function
%% from then on.
-module(hornbeam_functions).

%% API
-export([register/2]).
-export([register/3]).
-export([unregister/1]).
-export([list/0]).
-export([call/3]).

%% internal
-export([create_table/0]).
-export([call_encoded/3]).
-export([cast_encoded/2]).

-export_type([name/0, error/0]).

-type name() :: atom() | string() | binary().

-type error() ::
    {function_not_found, #{name := binary(), near := [binary()]}}
  | {bad_arguments, #{expected := binary()}}
  | hornbeam_blob:error()
  | hornbeam_task:error().
%% Why a call has no result. `near' has the names that may have been meant.

%% Rows: {Name :: binary(), fun() | {module(), Function :: atom()}}. Public, because whoever
%% registers writes one row by itself; it belongs to the application's own process.
-define(TABLE, ?MODULE).

%%% API

%% @doc Register a fun. It gets the arguments of the call as its arguments.
-spec register(name(), fun()) -> ok.
register(Name, Fun) when is_function(Fun) ->
    store(Name, Fun).

%% @doc Register the function of a module; its arity is the number of arguments of each call. The
%% module's newest code runs.
-spec register(name(), module(), Function :: atom()) -> ok.
register(Name, Module, Function) when is_atom(Module), is_atom(Function) ->
    store(Name, {Module, Function}).

%% @doc Forget a name; whether it was there. Calls that run are not touched.
-spec unregister(name()) -> boolean().
unregister(Name) ->
    ets:take(?TABLE, to_binary(Name)) =/= [].

%% @doc The names, sorted.
-spec list() -> [binary()].
list() ->
    lists:sort(names()).

%% @doc Call a function as Python does, for at most so many milliseconds.
-spec call(name(), Args :: list(), timeout()) -> {ok, term()} | {error, error()}.
call(Name, Args, TimeoutMs) when is_list(Args) ->
    case find(to_binary(Name)) of
        {ok, Function} ->
            hornbeam_task:run(fun() -> {ok, apply_to(Function, Args)} end, TimeoutMs);
        {error, _} = Error ->
            Error
    end.

%%% For the workers

%% @private The caller owns the table.
-spec create_table() -> ok.
create_table() ->
    _ = ets:new(?TABLE, [named_table, public, {read_concurrency, true}]),
    ok.

%% @private The call of a worker: arguments and result are blobs.
-spec call_encoded(Name :: binary(), hornbeam_blob:blob(), timeout()) -> hornbeam_services:answer().
call_encoded(Name, ArgsBlob, TimeoutMs) ->
    with_task(Name, ArgsBlob, fun(Task) -> {task, Task, TimeoutMs} end).

%% @private The same for nobody.
-spec cast_encoded(Name :: binary(), hornbeam_blob:blob()) -> hornbeam_services:answer().
cast_encoded(Name, ArgsBlob) ->
    with_task(Name, ArgsBlob, fun(Task) -> {task, Task, infinity} end).

%%% Internal

with_task(Name, ArgsBlob, Fun) ->
    case find(Name) of
        {ok, Function} ->
            Fun(fun() ->
                case hornbeam_blob:decode_list(ArgsBlob) of
                    {ok, Args} -> {ok, hornbeam_blob:encode(apply_to(Function, Args))};
                    {error, _} = Error -> Error
                end
            end);
        {error, _} = Error ->
            Error
    end.

apply_to({Module, Function}, Args) -> apply(Module, Function, Args);
apply_to(Fun, Args) -> apply(Fun, Args).

find(Name) ->
    case ets:lookup(?TABLE, Name) of
        [{_, Function}] -> {ok, Function};
        [] ->
            Near = hornbeam_near:names(Name, names()),
            {error, {function_not_found, #{name => Name, near => Near}}}
    end.

names() ->
    [Name || [Name] <- ets:match(?TABLE, {'$1', '_'})].

store(Name, Function) ->
    true = ets:insert(?TABLE, {to_binary(Name), Function}),
    ok.

to_binary(Name) when is_atom(Name) -> atom_to_binary(Name);
to_binary(Name) ->
    {ok, Text} = hornbeam_form:text(Name),
    Text.
