%% SPDX-License-Identifier: Apache-2.0

%% @private Keeps what handshakes need, and follows the files that it comes from.
%%
%% Once a second the files are looked at. When one has changed all are read again: what is well is
%% in force for the next handshake, what is not is logged, and the former stays. Connections that
%% are open are left alone.
%%
%% A certificate and its key are two files, and nobody writes both at once: a fault is believed only
%% when it is still there at the next look.
-module(hornbeam_tls_store).

-behaviour(gen_server).

-include_lib("kernel/include/file.hrl").
-include_lib("kernel/include/logger.hrl").

%% API
-export([new_table/0]).
-export([start_link/3]).
-export([material/1]).

%% gen_server
-export([init/1]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).

-export_type([table/0]).

-type table() :: ets:tid().
%% One row, {material, hornbeam_tls:material()}. Belongs to the listener, so that what is in force
%% outlives this process; public, as only this process writes.

-type fingerprint() :: [term()].
%% Something that changes with the files.

-record(state, {
    table :: table(),
    config :: hornbeam_config:config(),
    %% Of the files when they were read last.
    fingerprint :: fingerprint(),
    %% Why they could not be taken, and whether that has been logged.
    fault = none :: none | {hornbeam_error:reason(), Logged :: boolean()}
}).

-define(LOOK_MS, 1000).
%% The time of a file's last change has seconds: within that of reading it could change unseen.
-define(UNSETTLED_SECONDS, 2).

%% API.

-spec new_table() -> table().
new_table() ->
    ets:new(?MODULE, [public, {read_concurrency, true}]).

%% @doc Read the files, and follow them. What a predecessor has put into the table stays in force.
-spec start_link(hornbeam:name(), hornbeam_config:config(), table()) ->
    {ok, pid()} | {error, hornbeam_error:reason()}.
start_link(Name, Config, Table) ->
    ok = hornbeam_tls_log:start(),
    case ets:member(Table, material) orelse hornbeam_tls:load(Config) of
        true ->
            start_reader(Name, Config, Table);
        {ok, Material} ->
            put_in_force(Material, Table),
            start_reader(Name, Config, Table);
        {error, Reason} ->
            {error, Reason}
    end.

-spec material(table()) -> hornbeam_tls:material().
material(Table) ->
    ets:lookup_element(Table, material, 2).

%% gen_server.

-spec init({hornbeam:name(), hornbeam_config:config(), table()}) -> {ok, #state{}}.
init({Name, Config, Table}) ->
    logger:update_process_metadata(#{hornbeam_server => Name}),
    _ = erlang:start_timer(?LOOK_MS, self(), look),
    %% As if they had changed: they may have, since they were read.
    {ok, #state{table = Table, config = Config, fingerprint = []}}.

-spec handle_call(term(), gen_server:from(), #state{}) -> no_return().
handle_call(Request, _From, _State) ->
    error({unexpected_call, Request}).

-spec handle_cast(term(), #state{}) -> no_return().
handle_cast(Request, _State) ->
    error({unexpected_cast, Request}).

-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info({timeout, _, look}, State) ->
    _ = erlang:start_timer(?LOOK_MS, self(), look),
    {noreply, look(State)};
handle_info(Message, State) ->
    ?LOG_WARNING(#{what => unexpected_message, message => Message}),
    {noreply, State}.

%% Internal.

start_reader(Name, Config, Table) ->
    gen_server:start_link(?MODULE, {Name, Config, Table}, []).

look(State = #state{config = Config, fingerprint = Before, fault = Fault}) ->
    case [fingerprint(File) || File <- hornbeam_tls:files(Config)] of
        Before when Fault =:= none -> State;
        Now -> reload(State#state{fingerprint = Now})
    end.

fingerprint(File) ->
    case file:read_file_info(File, [{time, posix}]) of
        {ok, #file_info{size = Size, inode = Inode, mtime = Changed}} ->
            {Size, Inode, Changed, unsettled(File, Changed)};
        {error, Reason} ->
            Reason
    end.

unsettled(File, Changed) ->
    case abs(erlang:system_time(second) - Changed) =< ?UNSETTLED_SECONDS of
        true -> file:read_file(File);
        false -> settled
    end.

reload(State = #state{table = Table, config = Config, fault = Fault}) ->
    case hornbeam_tls:load(Config) of
        {ok, Material} ->
            case material(Table) of
                Material ->
                    ok;
                _ ->
                    put_in_force(Material, Table),
                    ?LOG_NOTICE(#{what => certificates_reloaded})
            end,
            State#state{fault = none};
        {error, Reason} ->
            State#state{fault = believe(Reason, Fault)}
    end.

believe(Reason, {Reason, true}) ->
    {Reason, true};
believe(Reason, {Reason, false}) ->
    Text = unicode:characters_to_binary(hornbeam_error:format(Reason)),
    ?LOG_ERROR(#{what => certificates_not_reloaded, reason => Text}),
    {Reason, true};
believe(Reason, _) ->
    {Reason, false}.

put_in_force(Material, Table) ->
    true = ets:insert(Table, {material, Material}),
    Now = calendar:universal_time(),
    _ = [warn(hornbeam_identity:doubt(Identity, Now), Identity)
         || Identity <- hornbeam_tls:identities(Material)],
    ok.

warn(none, _) ->
    ok;
warn(Doubt, #{file := File}) ->
    ?LOG_WARNING(#{what => certificate_doubtful, why => Doubt, certfile => File}).
